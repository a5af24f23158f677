"""The engine on a GPU: built, checked and timed at the sizes of presets `small` and `base`, for 512 and 1024 pixels.

One answer for one picture: encode, four steps of the trunk, decode; captions embedded before. PyTorch compiled in
bfloat16, ONNX Runtime with CUDA, and TensorRT, each where it is installed, and each held against PyTorch in float32
first. Weights are random: they change no time. What could not run is said, line by line. `make engine-gpu`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from deploy.engines import onnxruntime, tensorrt
from deploy.engines.model import OnnxModel
from deploy.engines.onnxruntime import CPU, CUDA, OrtGraph
from deploy.engines.protocol import GRAPHS, Graph
from deploy.engines.tensorrt.build import BuildOptions, build
from deploy.engines.tensorrt.profiles import Profile, bucket_profiles
from deploy.graphs import DecoderGraph, EncoderGraph, decoder_export, encoder_export, to_onnx, trunk_export, write_onnx
from deploy.operators import check_operators
from deploy.parity import relative_l2
from deploy.precision import Recipe, bake
from tests.benchmarks.promise import Promise
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.dit import DiT, DiTConfig
from training.presets import load_preset

PRESETS = os.environ.get("BENCH_PRESETS", "small,base").split(",")
SIDES = tuple(int(side) for side in os.environ.get("BENCH_SIDES", "512,1024").split(","))
FORMAT = os.environ.get("BENCH_FORMAT", "float16")
RUNS, WARM, STEPS, TEXT = 50, 5, 4, 384
BAR_MS, PARITY_BAR = 150.0, 2e-2

Inputs = dict[str, dict[str, np.ndarray]]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Models:
    """A preset's modules, random and on the CPU, and the number of words that they take."""

    encoder: nn.Module
    decoder: nn.Module
    trunk: DiT
    autoencoder: Autoencoder
    words: int

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder, "trunk": self.trunk}


def promises() -> Iterator[Promise]:
    if not torch.cuda.is_available():
        print("not run: PyTorch compiled, ONNX Runtime with CUDA and TensorRT at small and base sizes (no GPU here)")
        return
    name = torch.cuda.get_device_name()
    for preset in PRESETS:
        models = models_of(preset)
        with tempfile.TemporaryDirectory() as folder:
            graphs = graphs_of(models, Path(folder))
            for side in SIDES:
                print(f"{name}, {preset}, {side} px, batch 1:", flush=True)
                taken = dict(timed(models, graphs, side))
                best = min(taken, key=lambda way: taken[way][0], default=None)
                if best is not None and side == 1024:
                    title = f"{preset} at {side} px on {name}, p95 of {best}"
                    yield Promise(title, taken[best][1], BAR_MS, "ms", at_least=False)


def models_of(preset: str) -> Models:
    """The preset's autoencoder and student, with random weights of which none is silent."""
    torch.manual_seed(0)
    chosen = load_preset(preset)
    section = chosen.autoencoder
    shape = AutoencoderConfig(section.factor, section.latent_channels, section.width, section.depth)
    autoencoder = Autoencoder(shape)
    trunk = DiT(DiTConfig(section.latent_channels, **chosen.dit.model_dump(), text_width=TEXT, flow_map=True))
    for model in (autoencoder, trunk):
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
        model.eval().requires_grad_(False)
    return Models(EncoderGraph(autoencoder), DecoderGraph(autoencoder), trunk, autoencoder, chosen.export.text_length)


def graphs_of(models: Models, folder: Path) -> dict[str, OnnxModel]:
    """The graphs in the benchmark's format, as an export writes them."""
    exports = {
        "encoder": encoder_export(models.autoencoder),
        "decoder": decoder_export(models.autoencoder),
        "trunk": trunk_export(models.trunk),
    }
    written = {}
    for name, export in exports.items():
        model: onnx.ModelProto = to_onnx(export, 18).model
        bake(model, Recipe(FORMAT))  # type: ignore[arg-type]
        check_operators(GRAPHS[name], model)
        write_onnx(model, folder / GRAPHS[name])
        written[name] = OnnxModel.at(folder / GRAPHS[name], FORMAT)
    return written


def timed(models: Models, graphs: Mapping[str, OnnxModel], side: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """Way → (p50, p95) in milliseconds, of every way that can run here."""
    given = inputs_of(models, side)
    truth = {name: reference(models.modules[name], given[name]) for name in graphs}
    ways: dict[str, Callable[[], tuple[float, float] | str]] = {
        "PyTorch": lambda: compiled(models, given, truth),
        "ONNX Runtime": lambda: answering("ONNX Runtime", on_cuda(models, graphs, side), given, truth),
        "TensorRT": lambda: answering("TensorRT", on_tensorrt(models, graphs, side), given, truth),
    }
    for way, run in ways.items():
        try:
            taken = run()
        except Exception as error:  # one that fails leaves the others their lines
            print(f"  {way} refused: {type(error).__name__}: {error}", flush=True)
            continue
        if isinstance(taken, str):
            print(f"  {way} not run: {taken}", flush=True)
        else:
            yield way, taken


def answering(
    way: str, opened: dict[str, Graph] | str, given: Inputs, truth: Mapping[str, np.ndarray]
) -> tuple[float, float] | str:
    """What `percentiles` says of these graphs; a string is the reason why there are none."""
    if isinstance(opened, str):
        return opened
    try:
        check(way, {name: graph(given[name]) for name, graph in opened.items()}, truth)

        def answer() -> None:
            masked = opened["encoder"](given["encoder"])
            z = given["trunk"]["z"]
            for _ in range(STEPS):
                z = z - opened["trunk"]({**given["trunk"], "z": z, "masked": masked}) / STEPS
            opened["decoder"]({"latents": z})

        return percentiles(way, answer)
    finally:
        for graph in opened.values():
            graph.close()


def inputs_of(models: Models, side: int) -> Inputs:
    """One picture's inputs for every graph."""
    rng = np.random.default_rng(0)
    shape = (models.trunk.config.latent_channels, *[side // models.autoencoder.config.factor] * 2)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal((1, *size), np.float32)

    words = np.array([models.words // 2], np.int64)
    trunk = {
        "z": normal(*shape), "t": np.array([0.75], np.float32), "masked": normal(*shape),
        "mask": np.ones((1, 1, *shape[1:]), np.float32), "text": normal(models.words, TEXT), "text_length": words,
        "step": np.array([0.25], np.float32), "guidance": np.array([2.0], np.float32),
        "negative": normal(2, TEXT), "negative_length": np.zeros(1, np.int64),  # none, as an engine gives it
    }  # fmt: skip
    return {"encoder": {"images": normal(3, side, side)}, "decoder": {"latents": normal(*shape)}, "trunk": trunk}


def reference(module: nn.Module, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The module in float32 on the GPU, without the shortcuts of TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module.cuda()
    with torch.inference_mode():
        made: Tensor = module(**{name: torch.from_numpy(array).cuda() for name, array in given.items()})
    module.cpu()
    return made.cpu().numpy()


def compiled(models: Models, given: Inputs, truth: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """PyTorch, each module compiled, in bfloat16 by autocast."""
    try:
        return _compiled(models, given, truth)
    finally:
        for module in models.modules.values():
            module.cpu()
        torch._dynamo.reset()


def _compiled(models: Models, given: Inputs, truth: Mapping[str, np.ndarray]) -> tuple[float, float]:
    made: dict[str, Any] = {name: torch.compile(module.cuda()) for name, module in models.modules.items()}
    tensors = {
        name: {key: torch.from_numpy(array).cuda() for key, array in feeds.items()} for name, feeds in given.items()
    }

    @torch.inference_mode()
    @torch.autocast("cuda", dtype=torch.bfloat16)
    def answer() -> None:
        masked = made["encoder"](**tensors["encoder"])
        z = tensors["trunk"]["z"]
        for _ in range(STEPS):
            z = z - made["trunk"](**{**tensors["trunk"], "z": z, "masked": masked.float()}).float() / STEPS
        made["decoder"](latents=z)
        torch.cuda.synchronize()

    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16):
        got = {name: made[name](**feeds).float().cpu().numpy() for name, feeds in tensors.items()}
    check("PyTorch compiled, bfloat16", got, truth)
    return percentiles("PyTorch compiled, bfloat16", answer)


def on_cuda(models: Models, graphs: Mapping[str, OnnxModel], side: int) -> dict[str, Graph] | str:
    """The graphs on ONNX Runtime's CUDA provider, or why not."""
    if CUDA not in onnxruntime.available():
        return f"onnxruntime {onnxruntime.version()} was built without CUDA (install onnxruntime-gpu)"
    return {name: OrtGraph(model, providers=[CUDA, CPU]) for name, model in graphs.items()}


def on_tensorrt(models: Models, graphs: Mapping[str, OnnxModel], side: int) -> dict[str, Graph] | str:
    """Plans for this side alone, built now, or why not."""
    obstacle = tensorrt.available()
    if obstacle is not None:
        return obstacle
    from deploy.engines.tensorrt.runtime import TrtGraph

    factor, patch = models.autoencoder.config.factor, models.trunk.config.patch
    profiles = bucket_profiles({"1x1": (side, side)}, factor, patch, models.words, batch=1)
    opened: dict[str, Graph] = {}
    for name, model in graphs.items():
        chosen = [Profile(**profile) for profile in profiles[name]]  # type: ignore[arg-type]
        built = build(model, chosen, BuildOptions(fused_attention=False))
        print(
            f"  TensorRT {tensorrt.version()}, {name}: built in {built.seconds:.0f} s, {len(built.plan) / 1e6:.0f} MB, "
            f"of {built.layers.layers} layers {built.layers.fused_attention} fused attentions and "
            f"{built.layers.float32} float32",
            flush=True,
        )
        opened[name] = TrtGraph(name, built.plan)
    return opened


def check(way: str, got: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> None:
    """Raises RuntimeError when a graph is further from PyTorch in float32 than half precision explains."""
    errors = {name: relative_l2(made, truth[name]) for name, made in got.items()}
    print(f"  {way}: " + ", ".join(f"{name} off by {error:.1e}" for name, error in errors.items()), flush=True)
    if not max(errors.values()) <= PARITY_BAR:
        raise RuntimeError(f"{way} does not compute what PyTorch does: {errors}")


def percentiles(way: str, answer: Callable[[], None]) -> tuple[float, float]:
    for _ in range(WARM):
        answer()
    taken = []
    for _ in range(RUNS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        answer()
        taken.append(1000 * (time.perf_counter() - began))
    p50, p95 = (float(np.percentile(taken, q)) for q in (50, 95))
    print(f"  {way}: p50 {p50:.1f} ms, p95 {p95:.1f} ms", flush=True)
    return p50, p95


if __name__ == "__main__":
    for promise in promises():
        print(promise)
