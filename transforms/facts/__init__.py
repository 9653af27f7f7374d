"""What happened, one table per kind of event."""
