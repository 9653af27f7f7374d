"""What this warehouse costs beside the alternatives: ratios, both sides ending in the same state."""
