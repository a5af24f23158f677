"""Jobs for a cluster: what is to last lies in the store, for a pod's folder goes with it."""

from __future__ import annotations

import os
import signal
import time

from fixture_room.specs import PartSpec, TallySpec
from infra.errors import BackdropError
from infra.jobs.program import JobContext, Preempted
from infra.jobs.ranks import place
from infra.jobs.spec import JobResult


def tally(spec: TallySpec, job: JobContext) -> JobResult:
    """Counts to `steps` in step with all ranks, from the last checkpoint on; rank 0 keeps one after every step."""
    here = place()
    key = f"{job.output}/checkpoints/step"
    first = int(job.shared.get(key)) if job.shared.exists(key) else 0
    job.shared.put(f"{job.output}/starts/{time.time_ns()}-{here.rank}-from-{first}", here.ranks.__repr__().encode())
    try:
        for step in range(first, spec.steps):
            _barrier(job, spec, here.rank, step, first)
            job.metrics({"value": step}, step)
            if here.rank == 0:
                job.shared.put(key, str(step + 1).encode())
            if step == spec.stops_at and here.rank == here.ranks - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(spec.pause_s)
    except Preempted:
        job.log.info("preempted")
        raise
    return JobResult(metadata={"steps": spec.steps}, data={"first": first, "ranks": here.ranks})


def _barrier(job: JobContext, spec: TallySpec, rank: int, step: int, first: int) -> None:
    """A collective: it ends when all ranks have come."""
    if spec.ranks == 1:
        return
    job.shared.put(f"{job.output}/meet/{first}-{step}/{rank}", b"")
    deadline = time.monotonic() + 30
    while len(list(job.shared.list(f"{job.output}/meet/{first}-{step}/"))) < spec.ranks:
        if time.monotonic() > deadline:
            raise RuntimeError("the others did not come")
        time.sleep(0.02)


def part(spec: PartSpec, job: JobContext) -> JobResult:
    """One of many: leaves its number in the store."""
    job.store.put(f"{job.output}/done", str(spec.part).encode())
    if spec.part in spec.wrong:
        raise BackdropError(f"part {spec.part} is wrong", "correct it")
    return JobResult(data={"part": spec.part})
