"""What keeps the cost of a run from growing with the past: few files, few entries."""
