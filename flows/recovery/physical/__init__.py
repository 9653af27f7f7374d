"""Copies of the server's own files, beside the dumps: full ones and, from PostgreSQL 17 on, increments."""
