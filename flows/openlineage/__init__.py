"""OpenLineage: who made which table of what, told to a file or a receiver while it happens."""
