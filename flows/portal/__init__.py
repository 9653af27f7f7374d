"""The pages that people look at: files that need no server, and `--serve` where rows are to be asked for.

Every figure on a page is a value that a query gave: the page carries the query's text and shows it on demand.
Nothing is added up here; what a page needs is one more query in `queries/`.
"""
