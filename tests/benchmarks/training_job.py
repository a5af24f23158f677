"""A whole training job against the loop that its user would otherwise write with diffusers: DiT-S/2, 256 px, batch 8.

Ours: MDS → batch → loss → optimiser → average → MLflow, by `fit`. Theirs: a DataLoader over tensors in memory,
diffusers' text-conditioned DiT (PixArtTransformer2DModel) of the same width, depth and tokens, AdamW, its EMAModel,
MLflow.
Same torch, threads, number format and channels; pictures and captions are encoded beforehand on both sides, and then
once more with the encoding in their loop. The two take turns; each figure is the best of its rounds. The process is one
of `.venv-peers-training` (`make bench` makes it).
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.settings import REPOSITORY
from tests.benchmarks.promise import Promise
from tests.benchmarks.trunk import PEERS

BATCH, STEPS, WARM, ROUNDS, LOGGED = 8, 16, 3, 2, 4
WIDTH, DEPTH, HEADS, CHANNELS, SIDE, WORDS, TEXT = 384, 12, 6, 8, 32, 16, 384
SAMPLES = 128


def promises() -> Iterator[Promise]:
    if not PEERS.exists():
        print(f"no peer to compare with: {PEERS} is missing (`make bench NAME=training` makes it)")
        return
    command = [str(PEERS), "-m", "tests.benchmarks.training_job"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"seconds a step: ours {found['ours']:.3f}, theirs {found['theirs']:.3f}, theirs with encoding in the loop "
        f"{found['encoding']:.3f}; so with encodings kept on our side only: {found['encoding'] / found['ours']:.2f}",
        flush=True,
    )
    yield Promise("training job over diffusers' loop, encodings kept", found["theirs"] / found["ours"], 1.05)
    yield Promise("waiting for data, of a training job", found["waiting"], 0.03, at_least=False)


def measure() -> dict[str, float]:
    """Seconds per step of each side, and the share of ours that waits for data."""
    import torch

    from training.precision import fast_dtype

    torch.manual_seed(0)
    fast_dtype()  # measured once, by neither side
    folder = Path(tempfile.mkdtemp(prefix="backdrop-job-"))
    best: dict[str, float] = {}
    try:
        rows = samples()
        sides = {
            "ours": lambda at: our_job(at, rows),
            "theirs": lambda at: (their_loop(at, rows, encoding=False), 0.0),
            "encoding": lambda at: (their_loop(at, rows, encoding=True), 0.0),
        }
        for turn in range(ROUNDS):
            for name, side in sides.items():
                at = folder / f"{name}-{turn}"
                at.mkdir()
                seconds, waiting = side(at)
                best[name] = min(best.get(name, seconds), seconds)
                if name == "ours":
                    best["waiting"] = min(best.get("waiting", waiting), waiting)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return best


def samples() -> list[dict[str, Any]]:
    """Rows of a latent slice: what is in them costs nothing more or less."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [
        {
            "id": f"{number:064x}",
            "latent": rng.standard_normal((CHANNELS, SIDE, SIDE)).astype(np.float16),
            "masked": rng.standard_normal((3, CHANNELS, SIDE, SIDE)).astype(np.float16),
            "masks": rng.integers(0, 2, (3, SIDE, SIDE)).astype(np.uint8) * 255,
            "text": rng.standard_normal((1, WORDS, TEXT)).astype(np.float16),
            "text_length": np.full(1, WORDS, np.uint8),
            "has_product": 1,
        }
        for number in range(SAMPLES)
    ]


def per_step(marks: list[float]) -> float:
    return (marks[-1] - marks[WARM]) / (len(marks) - 1 - WARM)


# ── ours ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Tracked:
    """A job's channel, whose metrics reach MLflow from a thread, as an asset's do from another process."""

    def __init__(self, folder: Path) -> None:
        self._client, self._run = tracking(folder)
        self._lines: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    def send(self, payload: Mapping[str, Any]) -> None:
        self._lines.put(payload)

    def log(self, level: str, message: str) -> None:
        """Nobody reads it here."""

    def close(self) -> None:
        self._lines.put(None)
        self._thread.join()

    def _forward(self) -> None:
        while (line := self._lines.get()) is not None:
            if line["kind"] == "metrics":
                log_metrics(self._client, self._run, line["values"], line["step"])


def tracking(folder: Path) -> tuple[Any, str]:
    from mlflow import MlflowClient

    # One database for all sides and turns: making it takes longer than a turn.
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    return client, client.create_run(client.create_experiment(folder.name)).info.run_id


def log_metrics(client: Any, run: str, values: Mapping[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run, [Metric(name.replace("/", "."), value, now, step) for name, value in values.items()])


def our_job(folder: Path, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """(seconds per step, share of the time that waits for data)."""
    from infra.shards import write_slice
    from tests.training.world import job_in
    from training.batches import latent_loader
    from training.completion import completion_loss
    from training.ema import Ema
    from training.models.dit import DiT, DiTConfig
    from training.presets.sections import PretrainSection
    from training.recipes.fit import fit
    from training.samples import latent_columns

    channel = Tracked(folder)
    job = job_in(folder, channel)
    piece = write_slice(job.store, "latents", latent_columns(CHANNELS, SIDE, SIDE, 3, 1, WORDS, TEXT), rows, {})
    section = PretrainSection(
        steps=STEPS, batch_size=BATCH, warmup=0, ema=0.99, log_every=LOGGED, save_seconds=1e9, device="cpu"
    )
    model = DiT(DiTConfig(CHANNELS, WIDTH, DEPTH, HEADS, 2, 4.0, TEXT))
    loss = completion_loss(section, 0.5, 0.1, patch=2)
    marks: list[float] = []

    def marked(*given: Any) -> Any:
        marks.append(time.perf_counter())
        return loss(*given)

    marked.__module__ = loss.__module__  # whose source is part of a checkpoint's identity
    loader = latent_loader(job.store, [piece], folder / "cache", BATCH, seed=0)
    done = fit(job, "job", Ema(model, section.ema), marked, loader, section, seed=0)
    channel.close()
    return per_step(marks[-STEPS:]), float(done.metadata["data_wait_share"])


# ── theirs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def their_loop(folder: Path, rows: list[dict[str, Any]], encoding: bool) -> float:
    """Seconds per step."""
    import numpy as np
    import torch
    from diffusers import PixArtTransformer2DModel
    from diffusers.training_utils import EMAModel
    from torch.utils.data import DataLoader, TensorDataset

    from training.models.autoencoder import Autoencoder, AutoencoderConfig
    from training.models.text_encoder import TextEncoder
    from training.precision import autocast, fast_dtype

    model = PixArtTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        num_layers=DEPTH,
        sample_size=SIDE,
        cross_attention_dim=WIDTH,
        caption_channels=TEXT,
        use_additional_conditions=False,
    )
    average = EMAModel(model.parameters(), decay=0.99)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    columns = [
        torch.from_numpy(np.stack([row[name] for row in rows])) for name in ("latent", "masked", "masks", "text")
    ]
    batches = DataLoader(TensorDataset(*columns), batch_size=BATCH, shuffle=True, drop_last=True)
    client, run = tracking(folder)
    autoencoder, encoder = Autoencoder(AutoencoderConfig(8, CHANNELS, 64, 2)).eval(), None
    pictures = torch.rand(2 * BATCH, 3, 8 * SIDE, 8 * SIDE) * 2 - 1  # the picture, and what is kept of it
    if encoding:
        encoder = TextEncoder(None, WORDS)
    marks: list[float] = []
    while len(marks) < STEPS:
        for latent, masked, masks, text in batches:
            marks.append(time.perf_counter())
            x, kept, mask, words = latent.float(), masked[:, 1].float(), masks[:, 1:2].float() / 255, text[:, 0].float()
            with autocast(fast_dtype()):
                if encoder is not None:
                    with torch.no_grad():
                        x, kept = autoencoder.encode(pictures).float().chunk(2)
                    words = torch.from_numpy(encoder.embed(["a red vase on a wooden table"] * BATCH)[0]).float()
                    words = torch.nn.functional.pad(words, (0, 0, 0, WORDS - words.shape[1]))
                noise, t = torch.randn_like(x), torch.sigmoid(torch.randn(len(x)))
                z = (1 - t[:, None, None, None]) * x + t[:, None, None, None] * noise
                given = torch.cat([z, kept, mask], dim=1)
                conditions: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
                out = model(given, words, timestep=1000 * t, added_cond_kwargs=conditions).sample
            loss = (out.float() - (noise - x)).square().mean()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            average.step(model.parameters())
            if len(marks) % LOGGED == 0:
                log_metrics(client, run, {"loss": loss.item(), "gradient_norm": norm.item()}, len(marks))
            if len(marks) == STEPS:
                break
    return per_step(marks)


if __name__ == "__main__":
    print(json.dumps(measure()))
