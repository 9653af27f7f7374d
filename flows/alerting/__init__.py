"""Who is told what: incidents from verdicts, messages from incidents, and their delivery."""
