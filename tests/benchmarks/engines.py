"""The engine against PyTorch, eager and compiled: whole answers at the preset's shapes, on one thread and on two.

An answer is encode, four steps of the trunk and decode, captions embedded before. All sides compute in float32, with
the same weights, in one process, one after the other again and again; a figure is the median over rounds of the ratio
within a round. For speed, weights are random at the preset's shapes; parity is measured on a finished
line's, in float32 and float16.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infra.settings import REPOSITORY
from tests.benchmarks.promise import Promise

PRESET = os.environ.get("BENCH_PRESET", "nano")
SECONDS = float(os.environ.get("BENCH_SECONDS", "30"))
BATCHES, STEPS = (1, 4), 4
EAGER_BAR, COMPILED_BAR, PARITY_BAR, NODE_BAR = 1.2, 1.0, 1e-5, 2e-3


def promises() -> Iterator[Promise]:
    for threads in (1, 2):
        command = [sys.executable, "-m", "tests.benchmarks.engines", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        for batch, taken in found.items():
            told = ", ".join(f"{side} {1000 * seconds:.1f} ms" for side, seconds in taken["seconds"].items())
            print(f"{threads} threads, batch {batch}: {told}", flush=True)
        for side, bar in (("eager", EAGER_BAR), ("compiled", COMPILED_BAR)):
            worst = min(taken["ratio"][side] for taken in found.values())
            yield Promise(f"ONNX Runtime over {side} PyTorch, {threads} threads", worst, bar)
    yield from parity()


def parity() -> Iterator[Promise]:
    """The export on trained weights, in two formats."""
    from deploy.export import run
    from deploy.specs import ExportSpec
    from infra.jobs.program import JobContext
    from infra.overlay import OverlayStore
    from tests.benchmarks.finished_line import finished_line
    from tests.benchmarks.personalise import newest
    from training.presets import load_preset

    preset = load_preset(PRESET)
    with tempfile.TemporaryDirectory() as aside:
        below = finished_line()
        for form in ("float32", "float16"):
            spec = ExportSpec(
                store=below.uri,
                output=f"stages/tensorrt_engine/{form}",
                autoencoder=newest(below, "autoencoder").data["model"],
                student=newest(below, "distilled_model").data["model"],
                probe=newest(below, "training_set").data["version"],
                image_size=preset.image_size,
                config=preset.export.model_copy(update={"precision": form, "backend": "onnxruntime"}),
            )
            folder = Path(aside) / form
            folder.mkdir()
            job = JobContext(spec, OverlayStore(below, folder / "store"), spec.output, folder)
            outputs, nodes = run(spec, job).checks
            print(f"{form}: worst output {outputs.metadata['worst']}, worst node {nodes.metadata['worst']}", flush=True)
            if form == "float32":
                yield Promise("float32 parity, relative L2 of the worst output", outputs.metadata["worst_relative_l2"],
                              PARITY_BAR, at_least=False)  # fmt: skip
            else:
                yield Promise("float16 recipe, relative L2 of the worst node", nodes.metadata["worst_error"],
                              NODE_BAR, at_least=False)  # fmt: skip


def measure(threads: int) -> dict[int, dict[str, dict[str, float]]]:
    """Batch → seconds of each side, and ONNX Runtime's ratio over the other two."""
    import torch

    from deploy.engines.model import OnnxModel
    from deploy.engines.onnxruntime import OrtGraph
    from deploy.engines.protocol import GraphEngine
    from deploy.graphs import decoder_export, encoder_export, to_onnx, trunk_export
    from training.editing import Parts, complete
    from training.parts import TorchParts

    torch.set_num_threads(threads)
    autoencoder, student, size = _models()
    text = np.random.default_rng(0).standard_normal((max(BATCHES), 32, student.config.text_width), np.float32)

    def embed(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return text[: len(captions)].astype(np.float16), np.full(len(captions), 16, np.uint8)

    exports = {
        "trunk": trunk_export(student),
        "encoder": encoder_export(autoencoder),
        "decoder": decoder_export(autoencoder),
    }
    graphs = {}
    for name, export in exports.items():
        model = to_onnx(export, 18).model
        graphs[name] = OrtGraph(OnnxModel(f"{name}.onnx", model.SerializeToString()), threads)
    eager = TorchParts(autoencoder, student, embed, size)
    compiled = TorchParts(autoencoder, student, embed, size)
    compiled.transformer = torch.compile(student, dynamic=False)
    compiled.autoencoder = _Compiled(autoencoder)
    sides: dict[str, Parts] = {
        "onnxruntime": GraphEngine("onnxruntime", graphs, embed, size, autoencoder.config.factor),
        "eager": eager,
        "compiled": compiled,
    }
    rng = np.random.default_rng(0)
    found = {}
    for batch in BATCHES:
        images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
        product = np.zeros((batch, size, size), bool)
        product[:, size // 4 : size // 2, size // 4 : size // 2] = True

        def answer(parts: Parts, images: np.ndarray = images, product: np.ndarray = product) -> None:
            complete(
                parts, images, product, ["a box"] * len(images), steps=STEPS, guidance=2.0, seeds=range(len(images)),
                student=True,
            )  # fmt: skip

        for parts in sides.values():
            for _ in range(3):
                answer(parts)
        taken: dict[str, list[float]] = {name: [] for name in sides}
        until = time.perf_counter() + SECONDS
        while time.perf_counter() < until or len(taken["eager"]) < 5:
            for name, parts in sides.items():
                began = time.perf_counter()
                answer(parts)
                taken[name].append(time.perf_counter() - began)
        ours = np.array(taken["onnxruntime"])
        found[batch] = {
            "seconds": {name: float(np.median(values)) for name, values in taken.items()},
            "ratio": {name: float(np.median(np.array(taken[name]) / ours)) for name in ("eager", "compiled")},
        }
    return found


class _Compiled:
    """An autoencoder whose halves are compiled."""

    def __init__(self, autoencoder: Any) -> None:
        import torch

        self.encode = torch.compile(autoencoder.encode, dynamic=False)
        self.decode = torch.compile(autoencoder.decode, dynamic=False)


def _models() -> tuple[Any, Any, int]:
    """(autoencoder, student, picture's side) of the preset, with random weights."""
    import torch

    from training.models.autoencoder import Autoencoder, AutoencoderConfig
    from training.models.dit import DiT, DiTConfig
    from training.presets import load_preset

    preset = load_preset(PRESET)
    torch.manual_seed(0)
    section = preset.autoencoder
    autoencoder = Autoencoder(AutoencoderConfig(section.factor, section.latent_channels, section.width, section.depth))
    student = DiT(DiTConfig(latent_channels=section.latent_channels, **preset.dit.model_dump(), flow_map=True))
    for model in (autoencoder, student):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)  # nothing is silent, so nothing can be skipped
    return autoencoder.eval(), student.eval(), preset.image_size


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
