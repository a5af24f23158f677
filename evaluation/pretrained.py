"""The field's feature extractors, from weights on this machine's disk: CLIP, DINOv2, Inception. Nothing is downloaded.

clip:<folder>       CLIPModel as transformers saves it (with its tokenizer: CLIPScore)
dinov2:<folder>     Dinov2Model as transformers saves it
inception:<file>    torchvision's inception_v3 state dict, .safetensors or .pth
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from evaluation.features import FeatureExtractor, in_chunks, resized, resizing
from evaluation.metrics.text import clip_score
from infra.errors import BackdropError
from infra.files import sha256_file
from training._compat.hidden import hidden_from
from training.models.text_encoder import UNUSED
from training.text_source import identity

# Mean and deviation per channel of pictures in [0, 1].
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SIDE = 224
INCEPTION_SIDE = 299

_NOT_READ = frozenset({"logit_scale", "embeddings.mask_token"})
"""Weights that no feature depends on: a folder may lack them."""

Text = tuple[float, float, float]


def open_pretrained(kind: str, place: str) -> FeatureExtractor:
    """`kind` is clip, dinov2 or inception; `place` the folder or file of its weights.

    Raises:
        BackdropError: nothing there, or something else.
    """
    path = Path(place).expanduser()
    if not place or not (path.is_file() if kind == "inception" else path.is_dir()):
        raise BackdropError(
            f"the weights of {kind} are not at {place!r}",
            f"give {'a file' if kind == 'inception' else 'a folder'} on this machine, or use a weight-free extractor",
        )
    build = {"clip": Clip, "dinov2": Dinov2, "inception": Inception}[kind]
    try:
        return build(path)
    # A file that is something else fails in as many ways as there are formats.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError,
            UnpicklingError, SafetensorError) as error:  # fmt: skip
        raise BackdropError(
            f"{place} does not load as {kind}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            "give the weights in the format that evaluation/pretrained.py names",
        ) from error


def _whole(network: Any, folder: Path) -> Any:
    """transformers' `network` with all its weights from `folder`: what is not there it would draw at random.

    Raises:
        ValueError: another network's folder, or one without all weights.
    """
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind != network.config_class.model_type:
        raise ValueError(f"its config.json is of a model of type {kind!r}, not {network.config_class.model_type!r}")
    model, found = network.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    lacking = [*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])]
    lacking = [key for key in lacking if key not in _NOT_READ]
    if lacking:
        raise ValueError(f"{len(lacking)} of its weights are missing or of another shape, {lacking[0]} among them")
    return model.eval()


class _Network:
    """`features` of normalised pictures (n, 3, side, side) of one size."""

    def __init__(
        self, name: str, weights: str, side: int, mean: Text, std: Text, features: Callable[[Tensor], Tensor]
    ) -> None:
        self.id, self.weights = name, weights
        self.preprocessing = f"{resizing(side)}, mean {mean}, deviation {std}"
        self._side, self._features = side, features
        self._mean, self._std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return in_chunks(images, lambda some: self._features((resized(some, self._side) - self._mean) / self._std))


class Clip(_Network):
    """Projected image embeddings of unit length, and `text`, the same for captions (Radford et al. 2021)."""

    def __init__(self, folder: Path) -> None:
        with hidden_from("transformers", *UNUSED):
            from transformers import CLIPModel

        model = self._model = _whole(CLIPModel, folder)
        self._folder = folder

        def embedded(x: Tensor) -> Tensor:
            return torch.nn.functional.normalize(model.get_image_features(pixel_values=x), dim=1)

        side = model.config.vision_config.image_size
        super().__init__("clip", identity(str(folder)), side, CLIP_MEAN, CLIP_STD, embedded)

    def text(self, captions: Sequence[str]) -> np.ndarray:
        """float32 (N, D) of unit length. Raises BackdropError when the folder has no tokenizer."""
        with hidden_from("transformers", *UNUSED):
            from transformers import CLIPTokenizerFast

        try:
            tokenizer = CLIPTokenizerFast.from_pretrained(self._folder, local_files_only=True)
        except (OSError, TypeError, ValueError) as error:
            raise BackdropError(f"{self._folder} has no CLIP tokenizer", "copy its tokenizer files there") from error
        limit = self._model.config.text_config.max_position_embeddings
        tokens = tokenizer(list(captions), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            return torch.nn.functional.normalize(self._model.get_text_features(**tokens), dim=1).numpy()

    def scores(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """CLIPScore (N,) of pictures and their captions: the `clip` of `evaluation.measure.measure_all`."""
        return clip_score(self(images), self.text(captions))


class Dinov2(_Network):
    """The class token (Oquab et al. 2023), as FD-DINOv2 takes it (Stein et al. 2023)."""

    def __init__(self, folder: Path) -> None:
        with hidden_from("transformers", *UNUSED):
            from transformers import Dinov2Model

        model = _whole(Dinov2Model, folder)

        def class_token(x: Tensor) -> Tensor:
            return model(pixel_values=x).last_hidden_state[:, 0]

        super().__init__("dinov2", identity(str(folder)), DINO_SIDE, IMAGENET_MEAN, IMAGENET_STD, class_token)


class Inception(_Network):
    """The last pooling's 2048 values (Szegedy et al. 2016). torchvision's weights are not those of the FID papers."""

    def __init__(self, path: Path) -> None:
        from torchvision.models import inception_v3

        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        # Its own picture transform is left out: pictures are normalised here.
        model = inception_v3(weights=None, init_weights=False, aux_logits=True, transform_input=False)
        model.load_state_dict(state)
        model.fc = torch.nn.Identity()
        super().__init__("inception", sha256_file(path), INCEPTION_SIDE, IMAGENET_MEAN, IMAGENET_STD, model.eval())
