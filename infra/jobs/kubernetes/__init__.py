"""The launcher of a cluster: a job is a batch/v1 Indexed Job that outlives its orchestrator.

settings   what a cluster is told about: namespace, image, queue, resources per asset
build      what is asked of it: a launch → V1Job, V1Service (pure)
state      what became of it: job, pods, events → JobState (pure)
usage      what it cost: pods → GPU-seconds (pure)
rights     what each service account may do (pure)
connection who we are to the API server, and for how long a call may last
api        the client, which an API server that is away cannot impress
backend    what kind of object a job is there
handle     the launcher's memory of a job, in the object store
launcher   adopt or create, collect
watching   the loop between: watch, restart
pod        what runs in a pod: the job's processes, their log, their end
reaper     removes what no run wants any more
"""
