"""Build a batch of one table's partitions: read, compute, check, publish. `job.build` is a task's body."""
