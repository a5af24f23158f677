"""Models as bundles: weights as safetensors, the configuration as JSON beside them. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from infra.bundles import open_bundle, write_bundle
from infra.errors import BackdropError
from infra.files import canonical_json
from infra.object_store import ObjectStore
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.decoder import MaskedDecoder, MaskedDecoderConfig
from training.models.diffusers_vae import DiffusersAutoencoder, DiffusersConfig
from training.models.dit import DiT, DiTConfig

KINDS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "autoencoder": (Autoencoder, AutoencoderConfig),
    "diffusers_autoencoder": (DiffusersAutoencoder, DiffusersConfig),
    "masked_decoder": (MaskedDecoder, MaskedDecoderConfig),
    "dit": (DiT, DiTConfig),
}


def save_model(
    store: ObjectStore, prefix: str, kind: str, model: Autoencoder | MaskedDecoder | DiT, meta: Mapping[str, Any]
) -> str:
    """Write `model` below `prefix` and return the bundle's id. `kind` is one of `KINDS`."""
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    files = {"model.safetensors": save_tensors(weights), "config.json": canonical_json(asdict(model.config))}
    return write_bundle(store, prefix, kind, files, dict(meta))


def load_model(store: ObjectStore, bundle_id: str) -> Any:
    """The model of a bundle, verified by hash, in evaluation mode."""
    bundle = open_bundle(store, bundle_id)
    if bundle.kind not in KINDS:
        raise BackdropError(
            f"Bundle {bundle_id[:12]} is a {bundle.kind!r}, not a model.", f"Give one of: {', '.join(sorted(KINDS))}."
        )
    build, config = KINDS[bundle.kind]
    model = build(config(**json.loads(bundle.read("config.json"))))
    model.load_state_dict(load_tensors(bundle.read("model.safetensors")))
    return model.eval()
