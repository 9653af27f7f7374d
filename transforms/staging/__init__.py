"""One file per landed table: typed, renamed, deduplicated, deleted rows out."""
