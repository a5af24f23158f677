"""What a pod is told beside its arguments: the names of environment variables. Light, for the pod's own side."""

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
PREEMPTED = 143
"""The exit code of a job that was ended by SIGTERM after saving."""
