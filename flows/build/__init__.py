"""Build a batch of one table's partitions: read, compute, check, publish. One call is the body of one
task.
"""

from __future__ import annotations

from flows.build.job import Built, build
from flows.build.states import planner_states

__all__ = ["Built", "build", "planner_states"]
