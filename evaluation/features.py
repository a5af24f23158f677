"""What a picture is to a metric: feature extractors behind one protocol, two of them without any download.

`randconv:<seed>` and `vae-latent` tell pictures apart by colour, edges and layout and are there for every line; numbers
of the field's own extractors (CLIP, DINOv2, Inception; see `evaluation.pretrained`) want their weights on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.measured import Measured
from infra.errors import BackdropError, nearest
from training.editing import to_float

KINDS = ("clip", "dinov2", "inception", "vae-latent", "randconv")
DEFAULT = "randconv:0"

CHUNK = 64
"""Pictures that a network sees at once."""

Encode = Callable[[np.ndarray], np.ndarray]
"""float32 (B, 3, H, W) in [-1, 1] → latents (B, C, h, w), as `training.editing.Parts.encode`."""


class FeatureExtractor(Protocol):
    """Pictures → vectors. `weights` is the SHA-256 of what was learned (or drawn), `preprocessing` says how a picture
    gets to the network; with `id` they tell whether two numbers can be compared."""

    id: str
    weights: str
    preprocessing: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) → float32 (N, D)."""


@runtime_checkable
class TextScores(Protocol):
    """An extractor that also tells how well a picture fits its caption."""

    def scores(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """uint8 (N, H, W, 3) and N captions → (N,)."""


def open_extractor(name: str, encode: Encode | None = None, autoencoder: str = "", size: int = 0) -> FeatureExtractor:
    """The extractor called `name`: clip:<folder>, dinov2:<folder>, inception:<file>, vae-latent or randconv:<seed>.

    `encode`, `autoencoder` (its bundle id, which stands for its weights) and `size` (pixels along a picture's side) are
    what vae-latent is made of.

    Raises:
        BackdropError: an unknown name, weights that are missing or do not load, vae-latent without `encode`.
    """
    kind, _, rest = name.partition(":")
    if kind == "randconv":
        if not (rest.isascii() and rest.isdecimal()):
            raise BackdropError(f"{name!r} names no seed", f"write for example {DEFAULT}")
        return RandomConvolutions(int(rest))
    if kind == "vae-latent" and not rest:
        if encode is None or size < 1:
            raise BackdropError(
                "vae-latent needs the line's autoencoder and pictures' size", f"give both, or use {DEFAULT}"
            )
        return LatentFeatures(encode, autoencoder, size)
    if kind in ("clip", "dinov2", "inception"):
        from evaluation.pretrained import open_pretrained

        return open_pretrained(kind, rest)
    raise BackdropError(
        f"there is no feature extractor {name!r}.{nearest(kind, KINDS)}",
        "use clip:<folder>, dinov2:<folder>, inception:<file>, vae-latent or randconv:<seed>",
    )


def key_of(extractor: FeatureExtractor) -> dict[str, str]:
    """What a number of it carries, as plain values for JSON."""
    return {"extractor": extractor.id, "weights": extractor.weights, "preprocessing": extractor.preprocessing}


def measured(value: float, metric: str, extractor: FeatureExtractor, n: int, reference: str) -> Measured:
    """A number with all that it was made of."""
    return Measured(value, metric, extractor.id, extractor.weights, extractor.preprocessing, n, reference)


class RandomConvolutions:
    """Mean and deviation of each channel after each of three convolutions that nobody trained.

    Random filters with a rectifier keep distances between pictures well (Ulyanov et al. 2018; Naeem et al. 2020, who
    propose them where Imagenet's features do not fit). Numbers of it are not comparable with any paper's.
    """

    WIDTHS = (3, 32, 64, 128)
    SIDE = 64

    def __init__(self, seed: int) -> None:
        # From numpy, whose generators draw the same in every release.
        rng = np.random.default_rng(seed)
        shapes = [(there, here, 3, 3) for here, there in zip(self.WIDTHS, self.WIDTHS[1:], strict=False)]
        drawn = [(rng.standard_normal(s) * np.sqrt(2 / np.prod(s[1:]))).astype(np.float32) for s in shapes]
        self.id = f"randconv:{seed}"
        self.weights = sha256(b"".join(weight.tobytes() for weight in drawn)).hexdigest()
        self.preprocessing = f"{resizing(self.SIDE)}, [-1, 1]"
        self._layers = [torch.from_numpy(weight) for weight in drawn]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return in_chunks(images, self._features)

    def _features(self, images: np.ndarray) -> Tensor:
        x, found = resized(images, self.SIDE) * 2 - 1, []  # (n, 3, S, S)
        for weight in self._layers:
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
            found += [x.mean((2, 3)), x.std((2, 3))]
        return torch.cat(found, dim=1)  # (n, 2 · (32 + 64 + 128))


class LatentFeatures:
    """The line's own autoencoder's latents, averaged over a grid of cells: colour and layout, no fine texture.

    Only pictures of one size can be held against each other, so the size is part of `preprocessing`, and pictures of
    another are a ValueError.
    """

    CELLS = 4

    def __init__(self, encode: Encode, weights: str, size: int) -> None:
        self.id, self.weights = "vae-latent", weights
        self.preprocessing = f"{size} × {size} as they are, [-1, 1], mean over {self.CELLS} × {self.CELLS} cells"
        self._encode, self._size = encode, size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return in_chunks(images, self._features)

    def _features(self, images: np.ndarray) -> Tensor:
        if images.shape[1:3] != (self._size, self._size):
            raise ValueError(f"pictures of {images.shape[1:3]} pixels, not of {self._size} × {self._size}")
        pixels = np.ascontiguousarray(to_float(images).transpose(0, 3, 1, 2))
        latent = torch.from_numpy(np.asarray(self._encode(pixels), np.float32))  # (n, C, h, w)
        return F.adaptive_avg_pool2d(latent, self.CELLS).flatten(1)  # (n, C · cells²)


def in_chunks(images: np.ndarray, features: Callable[[np.ndarray], Tensor]) -> np.ndarray:
    """float32 (N, D) of uint8 (N, H, W, 3), a few pictures at a time."""
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"features are of pictures uint8 (N ≥ 1, H, W, 3), not {images.dtype} {images.shape}")
    with torch.inference_mode():
        parts = [features(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    return torch.cat(parts).float().numpy()


def resized(images: np.ndarray, side: int) -> Tensor:
    """uint8 (N, H, W, 3) → float32 (N, 3, side, side) in [0, 1], with anti-aliasing where it shrinks."""
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    if x.shape[2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def resizing(side: int) -> str:
    """What `resized` does, in words."""
    return f"{side} × {side} bicubic with antialias"
