"""Names that both sides of a job know: environment variables, exit codes, objects. Light, for the pod's own side."""

from __future__ import annotations

LOG = "BACKDROP_JOB_LOG"
"""Where in the object store its log goes."""
NODES = "BACKDROP_JOB_NODES"
PROCESSES = "BACKDROP_JOB_PROCESSES"
"""Of one node: one per GPU."""
MASTER = "BACKDROP_JOB_MASTER"
"""Where the ranks of a computation meet."""
MASTER_PORT = 29_500
INDEX = "JOB_COMPLETION_INDEX"
"""The cluster's: which node, or which slice."""
COST = "cost.json"
"""Below a job's output: what it cost."""
PREEMPTED = 143
"""The exit code of a job that was ended by SIGTERM after saving."""
