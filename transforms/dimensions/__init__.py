"""Who and what the facts are about, as it is now and as it was."""
