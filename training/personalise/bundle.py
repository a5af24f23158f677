"""A personalised model as a bundle: what was learned and nothing else, beside the base's id.

subject.json           name, class word, method, the phrase that captions use, and the base's bundle id
adapters.safetensors   a LoRA in the common layout, with adapter_config.json
token.safetensors      a textual inversion's vectors
model.safetensors      a DreamBooth's whole transformer, with config.json

`photographs` in its meta are the image ids that it was taught from, by which a takedown finds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from infra.bundles import open_bundle, write_bundle
from infra.errors import BackdropError
from infra.files import canonical_json
from infra.object_store import ObjectStore
from training.models.dit import DiT, DiTConfig
from training.models.io import load_model
from training.models.lora import load_lora, lora_config, merge_lora, save_lora
from training.models.text_encoder import TextEncoder
from training.personalise.token import LearnedToken, PromptEncoder

KIND = "personalised"


@dataclass(frozen=True)
class Learned:
    """`phrase` is how a caption names the subject: "sks mug", or "<subject> mug" where a token was learned."""

    subject: str
    word: str
    method: str
    phrase: str
    base: str


@dataclass(frozen=True)
class Personalised:
    """An opened one: `transformer` and `embed` go into TorchParts, captions say `learned.phrase`."""

    learned: Learned
    transformer: DiT
    text: TextEncoder
    token: LearnedToken | None

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As TextEncoder.embed, with the learned token where there is one."""
        if self.token is None:
            return self.text.embed(list(captions))
        return PromptEncoder(self.text).embed(self.token, captions)


def save_personalised(
    store: ObjectStore, prefix: str, learned: Learned, model: DiT | LearnedToken, meta: Mapping[str, Any]
) -> str:
    """Write what was learned below `prefix`; the bundle's id. A DiT with adapters is kept as its adapters alone."""
    files: dict[str, bytes] = {"subject.json": canonical_json(asdict(learned))}
    if isinstance(model, LearnedToken):
        files["token.safetensors"] = save_tensors({"vectors": model.vectors.detach().contiguous()})
    elif adapters := save_lora(model):
        files["adapters.safetensors"] = save_tensors(adapters)
        files["adapter_config.json"] = canonical_json(lora_config(model))
    else:
        weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
        files["model.safetensors"] = save_tensors(weights)
        files["config.json"] = canonical_json(asdict(model.config))
    return write_bundle(store, prefix, KIND, files, {**meta, "base": learned.base})


def load_personalised(store: ObjectStore, bundle_id: str, text: TextEncoder) -> Personalised:
    """The model of a bundle, verified by hash, adapters merged, in evaluation mode.

    Raises:
        BackdropError: a bundle of another kind, or one whose files were changed.
    """
    bundle = open_bundle(store, bundle_id)
    if bundle.kind != KIND:
        raise BackdropError(
            f"Bundle {bundle_id[:12]} is a {bundle.kind!r}, not a personalised model.",
            "Give the model of personalized_model.",
        )
    learned = Learned(**json.loads(bundle.read("subject.json")))
    if "model.safetensors" in bundle.files:
        model = DiT(DiTConfig(**json.loads(bundle.read("config.json"))))
        model.load_state_dict(load_tensors(bundle.read("model.safetensors")))
        return Personalised(learned, model.eval(), text, None)
    model = load_model(store, learned.base)
    if "token.safetensors" in bundle.files:
        return Personalised(
            learned, model, text, LearnedToken(load_tensors(bundle.read("token.safetensors"))["vectors"])
        )
    load_lora(model, load_tensors(bundle.read("adapters.safetensors")))
    merge_lora(model)
    return Personalised(learned, model.eval(), text, None)
