"""The launcher of a cluster: a job is a batch/v1 Indexed Job that outlives its orchestrator.

settings   what a cluster is told about: namespace, image, queue, resources per asset
build      what is asked of it: a launch → V1Job, V1Service (pure)
state      what became of it: job, pods, events → JobState (pure)
usage      what it cost: pods → GPU-seconds (pure)
api        the client, which an API server that is away cannot impress
handle     the launcher's memory of a job, in the object store
launcher   the loop: adopt or create, watch, restart, collect
pod        what runs in a pod: the job's processes, their log, their end
reaper     removes what no run wants any more
"""
