"""What the fixture room's jobs do."""

import atexit
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time

from fixture_room.specs import CountSpec, FailSpec, TeamSpec
from infra.errors import BackdropError, ServiceError
from infra.jobs.program import JobContext, Preempted
from infra.jobs.ranks import place
from infra.jobs.spec import Check, JobResult

PNG = b"\x89PNG\r\n\x1a\n"


def count(spec: CountSpec, job: JobContext) -> JobResult:
    """Counts to ``steps``, going on from what an earlier attempt saved; leaves a trace of every start in the
    store.
    """
    saved = job.folder / "step.txt"
    first = int(saved.read_text()) if saved.exists() else 0
    job.store.put(f"{job.output}/tmp", tempfile.gettempdir().encode())
    job.store.put(f"{job.output}/starts/{time.time_ns()}-{os.getpid()}-from-{first}", b"")
    done = first
    try:
        for step in range(first, spec.steps):
            job.progress("counting", step + 1, spec.steps, "steps")
            job.metrics({"value": step * 10}, step)
            for line in range(spec.chunk):
                job.log.info("step %s line %s", step, line)
            done = step + 1
            time.sleep(spec.pause_s)
    except Preempted:
        saved.write_text(str(done))
        job.log.info("saved at step %s", done)
        raise
    key = job.picture("the end", PNG, shows=["b", "a", "b"])
    return JobResult(
        metadata={"steps": spec.steps},
        data={"first": first, "pid": os.getpid()},
        pictures={"End": key},
        files={"numbers": job.put_json("numbers", list(range(spec.steps)))},
        checks=[Check(name="counted", passed=True)],
    )


def team(spec: TeamSpec, job: JobContext) -> JobResult:
    """Each rank leaves its pid in the folder, waits for the others' and writes to the store."""
    here = place()
    (job.folder / f"rank-{here.rank}").write_text(str(os.getpid()))
    pids: list[str] = []
    while len(pids) < spec.ranks or not all(pids):
        pids = [path.read_text() for path in sorted(job.folder.glob("rank-*"))]
        time.sleep(0.01)
    if here.rank == spec.dies:
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.dies is not None:
        time.sleep(0.5)
        raise RuntimeError("Connection closed by peer")  # as a collective says it
    job.store.put(f"{job.output}/written", str(here.rank).encode())
    job.log.info("rank %s of %s", here.rank, here.ranks)
    time.sleep(spec.pause_s)
    own = job.store.get(f"{job.output}/written").decode()
    return JobResult(data={"rank": here.rank, "ranks": here.ranks, "own": own, "pids": [int(pid) for pid in pids]})


def fail(spec: FailSpec, job: JobContext) -> JobResult:
    """Ends badly."""
    job.log.info("about to end by %s", spec.how)
    match spec.how:
        case "configuration":
            raise BackdropError("the learning rate is negative: -1", "set it above 0")
        case "service":
            raise ServiceError("the catalog is away", "start it")
        case "exception":
            raise ValueError("surprise")
        case "silent":
            os._exit(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "disk":
            try:
                raise OSError(errno.ENOSPC, "No space left on device", "/checkpoints/a")
            except OSError as error:
                raise RuntimeError("the writer failed") from error
        case "forgotten worker":
            worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            return JobResult(data={"worker": worker.pid})
        case "hangs at exit":
            atexit.register(time.sleep, 600)
        case "forgotten fork":
            pid = os.fork()
            if pid == 0:
                os.setsid()
                time.sleep(600)
                os._exit(0)
            return JobResult(data={"worker": pid})
        case "changed result":
            # Somebody replaces the result between the report and its reading.
            send = job.channel.send

            def tampered(payload: dict) -> None:
                if payload["kind"] == "result":
                    job.store.put(payload["key"], b"{}")
                send(payload)

            job.channel.send = tampered  # type: ignore[method-assign]
    return JobResult()
