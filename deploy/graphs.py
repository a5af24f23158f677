"""PyTorch modules as ONNX graphs whose batch, picture size and caption length are free."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy.engines.protocol import GRAPHS
from infra.object_store import open_store
from training.models.autoencoder import Autoencoder
from training.models.dit import DiT
from training.models.io import load_model

# Two or more of everything that is to stay free: torch.export makes 0 and 1 constants.
_BATCH, _TOKENS, _ROWS, _COLUMNS = 2, 6, 4, 3
# Without an upper bound torch.export finds a guard (size != 2⁶³ - 1) that it then cannot prove.
_LARGEST = 1 << 16


class EncoderGraph(nn.Module):
    """`images` float32 (B, 3, H, W) → normalised latents (B, C, H/f, W/f)."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        return self.autoencoder.encode(images)


class DecoderGraph(nn.Module):
    """Normalised `latents` (B, C, h, w) → images (B, 3, f·h, f·w)."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


@dataclass(frozen=True)
class Export:
    """What to export: a module, example inputs by name, and which of their dimensions are free.

    `free`: input → {dimension: (multiple, symbol)}; the dimension is `multiple` times any whole number.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    free: Mapping[str, Mapping[int, tuple[int, str]]]


def autoencoder_exports(autoencoder: Autoencoder) -> dict[str, Export]:
    """Encoder and decoder, by the names in `deploy.engines.protocol.GRAPHS`."""
    factor, channels = autoencoder.config.factor, autoencoder.config.latent_channels
    batch = {0: (1, "batch")}
    return {
        "encoder": Export(
            EncoderGraph(autoencoder),
            {"images": torch.zeros(_BATCH, 3, factor * _ROWS, factor * _COLUMNS)},
            {"images": {**batch, 2: (factor, "rows"), 3: (factor, "columns")}},
        ),
        "decoder": Export(
            DecoderGraph(autoencoder),
            {"latents": torch.zeros(_BATCH, channels, _ROWS, _COLUMNS)},
            {"latents": {**batch, 2: (1, "rows"), 3: (1, "columns")}},
        ),
    }


def trunk_export(student: DiT) -> Export:
    """The student, with every input that `DiT.forward` takes."""
    patch, channels, width = student.config.patch, student.config.latent_channels, student.config.text_width
    size = (patch * _ROWS, patch * _COLUMNS)
    batch = {0: (1, "batch")}
    words = {**batch, 1: (1, "tokens")}
    latent = {**batch, 2: (patch, "rows"), 3: (patch, "columns")}
    return Export(
        student,
        {
            # Never one tensor twice: torch.export would take two inputs for one.
            "z": torch.zeros(_BATCH, channels, *size),
            "t": torch.linspace(0.3, 0.7, _BATCH),
            "masked": torch.zeros(_BATCH, channels, *size),
            "mask": torch.ones(_BATCH, 1, *size),
            "text": torch.zeros(_BATCH, _TOKENS, width),
            "text_length": torch.arange(_BATCH) + 3,
            "step": torch.linspace(0.1, 0.2, _BATCH),
            "guidance": torch.linspace(1.0, 2.0, _BATCH),
            "negative": torch.zeros(_BATCH, _TOKENS, width),
            "negative_length": torch.arange(_BATCH) + 2,
        },
        {
            **dict.fromkeys(("z", "masked", "mask"), latent),
            **dict.fromkeys(("t", "text_length", "step", "guidance", "negative_length"), batch),
            **dict.fromkeys(("text", "negative"), words),
        },
    )


def to_onnx(export: Export, opset: int) -> bytes:
    """One ONNX model through `torch.export` and the dynamo exporter. Seconds for small modules."""
    symbols = {name: torch.export.Dim(name, max=_LARGEST) for free in export.free.values() for _, name in free.values()}
    inputs: dict[str, Any] = dict(export.inputs)
    # In the order of the inputs: the exporter matches them by position.
    shapes = {
        name: {axis: multiple * symbols[symbol] for axis, (multiple, symbol) in export.free[name].items()}
        for name in inputs
    }
    for chatty in ("onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.WARNING)  # a line for each node they fold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecated calls
        program = torch.export.export(export.module.eval(), (), inputs, dynamic_shapes=shapes, strict=False)
        _divide_in_float(program)
        exported = torch.onnx.export(
            program,
            (),
            kwargs=inputs,
            dynamic_shapes=shapes,
            dynamo=True,
            opset_version=opset,
            optimize=True,
            verify=False,
            verbose=False,
        )
    assert exported is not None
    return bytes(exported.model_proto.SerializeToString())


def _divide_in_float(program: torch.export.ExportedProgram) -> None:
    """Spell out that dividing integers gives floats.

    torch 2.7's ONNX type promotion asserts the wrong dtype for `aten.div.Tensor` of integers and gives up.
    """
    aten = torch.ops.aten
    for node in [node for node in program.graph.nodes if node.target is aten.div.Tensor]:
        for argument in [a for a in node.args if isinstance(a, torch.fx.Node)]:
            value = argument.meta["val"]
            if value.dtype.is_floating_point:
                continue
            with program.graph.inserting_before(node):
                as_float = program.graph.call_function(aten._to_copy.default, (argument,), {"dtype": torch.float32})
            as_float.meta["val"] = value.to(torch.float32)
            node.replace_input_with(argument, as_float)


def write_autoencoder_graphs(store_uri: str, bundle_id: str, opset: int, folder: str) -> None:
    """Export encoder and decoder into `folder`; what the export's second process does."""
    autoencoder = load_model(open_store(store_uri), bundle_id)
    for name, export in autoencoder_exports(autoencoder).items():
        (Path(folder) / GRAPHS[name]).write_bytes(to_onnx(export, opset))
