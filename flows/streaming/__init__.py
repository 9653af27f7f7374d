"""The stream: the batch's declarations, models and warehouse, run over micro-batches."""
