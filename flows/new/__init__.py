"""`python -m flows new NAME`: the files that a new table or source begins with."""
