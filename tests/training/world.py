"""Trainings of a tiny model in processes that can be killed, forked one by one from a process that reads them.

Composer is imported once, and nothing is computed before a fork: that is what makes a run cost half a second.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.settings import REPOSITORY

BUCKETS = {"": {"1x1": [40, 24]}, "buckets": {"1x1": [30, 20], "3x4": [25], "4x3": [9]}}
BATCH = 8
CHANNELS = 3


@dataclass(frozen=True)
class Run:
    """One training, from where its folder's checkpoints are. `kill` ends it in that step, `stop` asks it to end."""

    folder: str
    steps: int = 12
    ranks: int = 1
    buckets: bool = False
    kill: int | None = None
    kill_rank: int = 0
    stop: int | None = None
    nodes: bool = False  # each rank on its own, with its own disk
    poison: int | None = None
    seed: int = 0
    section: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How it ended, and what it left: losses and sample numbers by step (the last life's), averaged and own weights."""

    code: int
    error: str
    metadata: dict[str, Any]
    curve: list[dict[str, float]]
    losses: dict[int, float]
    samples: dict[int, list[int]]
    folder: Path

    def weights(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.folder / "weights.safetensors")


class World:
    """The process that forks trainings, as a test sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.training.world import main; main()"],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # a thread per tiny product costs more than it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, run: Run) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(run)), file=self._process.stdin, flush=True)
        return self.outcome(run, int(self._process.stdout.readline()))

    @staticmethod
    def outcome(run: Run, code: int) -> Outcome:
        """What a run has left in its folder."""
        folder = Path(run.folder)
        said = folder / "said.json"
        found = json.loads(said.read_text()) if said.exists() else {}
        losses, samples = {}, {}
        steps = folder / "steps.jsonl"
        for line in steps.read_text().splitlines() if steps.exists() else []:
            row = json.loads(line)
            losses[row["step"]], samples[row["step"]] = row["loss"], row["samples"]
        return Outcome(
            code,
            found.get("error", ""),
            found.get("metadata", {}),
            found.get("curve", []),
            losses,
            samples,
            folder,
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Forks a training for each line on the standard input; says its exit code in a line."""
    import training.recipes.fit  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)
            code = 1
            try:
                code = train(Run(**json.loads(line)))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def train(run: Run) -> int:
    """One life of a run, with its ranks. Its exit code is that of a job."""
    from infra.errors import BackdropError
    from infra.jobs.program import Preempted
    from infra.jobs.ranks import forked

    folder = Path(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / "said.json"
    said.unlink(missing_ok=True)
    try:
        with forked(run.ranks, lambda: _follow(run)):
            said.write_text(json.dumps(_fit(run)))
        return 0
    except BackdropError as error:
        said.write_text(json.dumps({"error": str(error)}))
        return error.exit_code
    except Preempted:
        return 143


def _follow(run: Run) -> int:
    from infra.jobs.program import Preempted

    try:
        _fit(run)
    except Preempted:
        return 143
    return 0


def _fit(run: Run) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    from infra.jobs.channel import SilentChannel
    from infra.jobs.program import JobContext
    from infra.jobs.ranks import place
    from infra.jobs.spec import JobSpec
    from infra.object_store import DirectoryStore
    from infra.overlay import OverlayStore
    from training.ema import Ema
    from training.presets.sections import OptimiserSection
    from training.recipes.fit import fit

    folder = Path(run.folder)
    torch.manual_seed(run.seed)
    values = {"batch_size": BATCH, "learning_rate": 3e-3, "warmup": 2, "ema": 0.9, "log_every": 1, "save_seconds": 1e-9}
    section = OptimiserSection(**{**values, "steps": run.steps, "ranks": run.ranks, **run.section})
    ema = Ema(tiny_model(), section.ema)
    rank, save = place().rank, folder / "save"
    if run.nodes:
        os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", NODE_RANK=str(rank))
        save = folder / f"save-{rank}"
    shared = DirectoryStore(folder / "store")
    store = OverlayStore(shared, folder / f"aside-{rank}") if rank else shared
    spec = JobSpec(store=store.uri, output="out")
    job = JobContext(spec, store, spec.output, save, channel=SilentChannel())
    job.folder.mkdir(exist_ok=True)
    loss = recorded(run, rank, folder / "steps.jsonl")
    fitted = fit(job, "tiny", ema, loss, loader(run), section, run.seed)
    if rank == 0:
        named = {f"own/{name}": value for name, value in ema.model.state_dict().items()} if run.ranks == 1 else {}
        averaged = {f"ema/{name}": value for name, value in ema.module.state_dict().items()}
        save_file({**named, **averaged}, folder / "weights.safetensors")
    return {"metadata": fitted.metadata, "curve": fitted.curve}


def job_in(folder: Path, channel: Any) -> Any:
    """A job of one rank with its store and its save in `folder`."""
    from infra.jobs.program import JobContext
    from infra.jobs.spec import JobSpec
    from infra.object_store import DirectoryStore

    store = DirectoryStore(folder / "store")
    (folder / "save").mkdir(parents=True, exist_ok=True)
    return JobContext(JobSpec(store=store.uri, output="out"), store, "out", folder / "save", channel=channel)


def tiny_model() -> Any:
    """A velocity of latents of any size, with layers in a list as a trunk has."""
    from torch import nn

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(CHANNELS + 1, 8, 3, padding=1)
            self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
            self.last = nn.Conv2d(8, CHANNELS, 1)
            self.register_buffer("seen", __import__("torch").zeros(()))

        def forward(self, z: Any) -> Any:
            x = self.first(z)
            for block in self.blocks:
                x = x + block(x.tanh())
            return self.last(x)

    return Trunk()


def recorded(run: Run, rank: int, path: Path) -> Any:
    """A flow loss with every kind of draw, that writes each step's numbers down, and in which the process may end."""
    import torch

    from training import flow

    def loss(model: Any, batch: Any, draws: Any) -> dict[str, Any]:
        if draws.step < 0:  # its operations are being counted
            return {"loss": model(torch.cat([batch["latent"], batch["latent"][:, :1]], dim=1)).square().mean()}
        if draws.step == run.kill and rank == run.kill_rank:
            os.kill(os.getpid(), signal.SIGKILL)
        if draws.step == run.stop and rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        x = batch["latent"]
        t = flow.logit_normal_times(draws, 0.0, 1.0)
        noise = draws.normal("noise", *x.shape[1:])
        kept = (draws.uniform("mask") < 0.5).float()[:, None, None, None].expand(-1, 1, *x.shape[2:])
        predicted = model(torch.cat([flow.interpolate(x, noise, t), kept], dim=1))
        value = (predicted - flow.velocity(x, noise)).square().mean()
        if rank == 0:
            with path.open("a") as file:
                row = {"step": draws.step, "loss": value.item(), "samples": batch["sample"].tolist()}
                file.write(json.dumps(row) + "\n")
        return {"loss": value}

    return loss


def loader(run: Run) -> Any:
    from training.loader import Loader
    from training.plan import Plan

    return Loader(Rows(run), Plan(run.seed, BUCKETS["buckets" if run.buckets else ""], BATCH), stack)


def stack(rows: list[dict[str, Any]], bucket: str) -> dict[str, Any]:
    import torch

    return {"latent": torch.stack([row["latent"] for row in rows])}


class Rows:
    """Samples made up on the spot, of the size that their bucket says; `poison` puts a NaN into one global batch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        sizes = BUCKETS["buckets" if run.buckets else ""]
        self.bucket = [name for name, shards in sizes.items() for _ in range(sum(shards))]
        self.poisoned: set[int] = set()
        if run.poison is not None:
            from training.plan import Plan

            self.poisoned = {int(Plan(run.seed, sizes, BATCH).batch(run.poison).samples[-1])}

    def read(self, numbers: Any, columns: Any = None) -> list[dict[str, Any]]:
        import torch

        rows = []
        for number in numbers:
            high, wide = (4 * int(side) for side in self.bucket[number].split("x"))
            generator = torch.Generator().manual_seed(int(number))
            latent = torch.randn(CHANNELS, high, wide, generator=generator)
            if int(number) in self.poisoned:
                latent[0, 0, 0] = float("nan")
            rows.append({"id": f"image-{number}", "latent": latent})
        return rows

    def open_shards(self, numbers: Any) -> None:
        pass

    def refuse_withdrawn(self, numbers: Any) -> None:
        pass
