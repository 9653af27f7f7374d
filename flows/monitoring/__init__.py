"""How the pipeline is: signals, their verdicts, and who is told."""
