"""What Prometheus can ask: numbers of the stream while it lives, of a run when it ends, of the warehouse."""
