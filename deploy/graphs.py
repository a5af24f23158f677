"""PyTorch modules as ONNX graphs whose batch, picture size and caption length are free."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from deploy.engines.model import EXTERNAL
from training.models.autoencoder import Autoencoder
from training.models.decoder import MaskedDecoder
from training.models.dit import DiT
from training.models.text_encoder import TextEncoder

# Two or more of everything that is to stay free: torch.export makes 0 and 1 constants.
_BATCH, _TOKENS, _ROWS, _COLUMNS = 2, 6, 4, 3
# Without an upper bound torch.export finds a guard (size != 2⁶³ - 1) that it then cannot prove.
_LARGEST = 1 << 16
EXTERNAL_FROM = 1 << 30
"""Bytes of weights from which they lie beside the graph: a protobuf message ends at two gigabytes."""


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


class MaskedDecoderGraph(nn.Module):
    """`latents`, `mask` (B, 1, H, W) with 1 = to generate, `original` (B, 3, H, W) in [-1, 1] → images."""

    def __init__(self, decoder: MaskedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor, mask: Tensor, original: Tensor) -> Tensor:
        return self.decoder.decode(latents, mask, original)


class TextGraph(nn.Module):
    """Token `ids` (B, T) and which are `valid` (B, T), int64 → embeddings (B, T, E), zero where not valid."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=valid).last_hidden_state
        return hidden * valid[:, :, None]


@dataclass(frozen=True)
class Export:
    """What to export: a module, example inputs by name, and which of their dimensions are free.

    `free`: input → {dimension: (multiple, symbol)}; the dimension is `multiple` times any whole number up to `largest`.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    free: Mapping[str, Mapping[int, tuple[int, str]]]
    largest: int = _LARGEST


@dataclass
class Exported:
    """A graph, and the PyTorch program that it was made from, whose nodes gave its tensors their names."""

    model: onnx.ModelProto
    program: torch.export.ExportedProgram


def encoder_export(autoencoder: Autoencoder) -> Export:
    """Pictures → latents."""
    factor = autoencoder.config.factor
    return Export(
        EncoderGraph(autoencoder),
        {"images": torch.zeros(_BATCH, 3, factor * _ROWS, factor * _COLUMNS)},
        {"images": {0: (1, "batch"), 2: (factor, "rows"), 3: (factor, "columns")}},
    )


def decoder_export(autoencoder: Autoencoder, masked: MaskedDecoder | None = None) -> Export:
    """Latents → pictures; with a mask-conditioned decoder mask and original are inputs, too."""
    factor, channels = autoencoder.config.factor, autoencoder.config.latent_channels
    latents = torch.zeros(_BATCH, channels, _ROWS, _COLUMNS)
    small = {0: (1, "batch"), 2: (1, "rows"), 3: (1, "columns")}
    if masked is None:
        return Export(DecoderGraph(autoencoder), {"latents": latents}, {"latents": small})
    size = (factor * _ROWS, factor * _COLUMNS)
    large = {0: (1, "batch"), 2: (factor, "rows"), 3: (factor, "columns")}
    return Export(
        MaskedDecoderGraph(masked),
        {"latents": latents, "mask": torch.ones(_BATCH, 1, *size), "original": torch.zeros(_BATCH, 3, *size)},
        {"latents": small, "mask": large, "original": large},
    )


def text_export(encoder: TextEncoder) -> Export:
    """Token ids → embeddings, of any encoder that takes `input_ids` and `attention_mask`."""
    ids = torch.arange(_BATCH * _TOKENS).view(_BATCH, _TOKENS) % 7 + 1
    valid = torch.ones(_BATCH, _TOKENS, dtype=torch.int64)
    valid[1, 4:] = 0
    free = {0: (1, "batch"), 1: (1, "tokens")}
    context = getattr(encoder.model.config, "max_position_embeddings", _LARGEST)
    # At its whole context an encoder leaves out the slice of its positions: that would be another graph.
    largest = min(_LARGEST, max(encoder.length, context - 1))
    return Export(TextGraph(encoder.model), {"ids": ids, "valid": valid}, {"ids": free, "valid": free}, largest)


def trunk_export(transformer: DiT) -> Export:
    """A student, with every input that `DiT.forward` takes; or a teacher, which has no step, guidance or negative."""
    config = transformer.config
    size, width = (config.patch * _ROWS, config.patch * _COLUMNS), config.text_width
    batch = {0: (1, "batch")}
    latent = {**batch, 2: (config.patch, "rows"), 3: (config.patch, "columns")}
    inputs = {
        # Never one tensor twice: torch.export would take two inputs for one.
        "z": torch.zeros(_BATCH, config.latent_channels, *size),
        "t": torch.linspace(0.3, 0.7, _BATCH),
        "masked": torch.zeros(_BATCH, config.latent_channels, *size),
        "mask": torch.ones(_BATCH, 1, *size),
        "text": torch.zeros(_BATCH, _TOKENS, width),
        "text_length": torch.arange(_BATCH) + 3,
    }
    if config.flow_map:
        inputs |= {
            "step": torch.linspace(0.1, 0.2, _BATCH),
            "guidance": torch.linspace(1.0, 2.0, _BATCH),
            "negative": torch.zeros(_BATCH, _TOKENS - 1, width),
            "negative_length": torch.arange(_BATCH) + 2,
        }
    free = {
        **dict.fromkeys(inputs, batch),
        **dict.fromkeys(("z", "masked", "mask"), latent),
        "text": {**batch, 1: (1, "tokens")},
    }
    if config.flow_map:
        free["negative"] = {**batch, 1: (1, "away")}  # a length of its own: two null words cost nothing
    return Export(transformer, inputs, free)


def to_onnx(export: Export, opset: int) -> Exported:
    """One ONNX model through `torch.export` and the dynamo exporter. Seconds for small modules."""
    names = {symbol for free in export.free.values() for _, symbol in free.values()}
    symbols = {name: torch.export.Dim(name, max=export.largest) for name in names}
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
    assert exported.exported_program is not None
    return Exported(exported.model_proto, exported.exported_program)


def write_onnx(model: onnx.ModelProto, path: Path, external_from: int = EXTERNAL_FROM) -> None:
    """The model at `path`; weights of `external_from` bytes or more beside it, as `path` with ".data" at its end.

    What the exporter notes at each node (stack traces with this machine's paths) is left out. Changes `model`.
    """
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weights < external_from:
        path.write_bytes(model.SerializeToString())
        return
    beside = f"{path.name}{EXTERNAL}"
    onnx.save_model(
        model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=beside, size_threshold=1024
    )


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
