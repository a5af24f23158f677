"""MDS slices → batches: pictures for the autoencoder, precomputed latents for the transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from infra import images
from infra.errors import BackdropError
from infra.object_store import ObjectStore
from infra.shards import Slice, streaming_dataset

if TYPE_CHECKING:
    from streaming.base import StreamingDataLoader

Batch = dict[str, Tensor]

EMPTY, RANDOM = 0, 1
"""Which of a sample's masks is which: everything masked, then the random ones, then the product's, last."""


def latent_columns(channels: int, cells: int, masks: int, captions: int, length: int, width: int) -> dict[str, str]:
    """Columns of a latent slice: shapes are fixed per slice, so that reading one is a copy."""
    return {
        "id": "str",
        "latent": f"ndarray:float16:{channels},{cells},{cells}",
        "masked": f"ndarray:float16:{masks},{channels},{cells},{cells}",
        "masks": f"ndarray:uint8:{masks},{cells},{cells}",  # 255 = to generate
        "text": f"ndarray:float16:{captions},{length},{width}",
        "text_length": f"ndarray:uint8:{captions}",
        "has_product": "int",
    }


def image_loader(
    store: ObjectStore, slices: Sequence[Slice], cache: Path, batch_size: int, image_size: int, seed: int
) -> StreamingDataLoader:
    """Batches {"image": uint8 (B, 3, S, S)}, shuffled."""

    def collate(samples: list[dict[str, Any]]) -> Batch:
        pictures = [square(sample, image_size) for sample in samples]
        return {"image": torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)}

    return _loader(store, slices, cache, batch_size, seed, collate)


def square(sample: dict[str, Any], size: int) -> np.ndarray:
    """A filtered sample's picture, uint8 (size, size, 3)."""
    picture = images.decode(sample["image"])
    return picture if picture.shape[:2] == (size, size) else images.fit(picture, size)


def latent_loader(
    store: ObjectStore, slices: Sequence[Slice], cache: Path, batch_size: int, seed: int
) -> StreamingDataLoader:
    """Batches of latent slices, shuffled, with every variant of a sample: see `choose`.

    latent (B, C, h, w), masked (B, K, C, h, w), masks (B, K, h, w), text (B, V, L, E), text_length (B, V),
    has_product (B,).
    """

    def collate(samples: list[dict[str, Any]]) -> Batch:
        columns = ("latent", "masked", "masks", "text", "text_length")
        batch = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in columns}
        longest = int(batch["text_length"].max())
        batch["text"] = batch["text"][:, :, :longest]
        batch["has_product"] = torch.tensor([sample["has_product"] for sample in samples], dtype=torch.bool)
        return batch

    return _loader(store, slices, cache, batch_size, seed, collate)


def choose(
    batch: Batch, product_share: float, empty_share: float, text_dropout: float, generator: torch.Generator
) -> Batch:
    """One mask and one caption per sample, drawn.

    latent, masked (B, C, h, w), mask (B, 1, h, w), text (B, L, E), text_length (B,). A sample without a product
    mask gets a random one in its stead. A dropped text has length 0.
    """
    count, masks = batch["masks"].shape[:2]
    draw = torch.rand(count, generator=generator)
    which = torch.randint(RANDOM, masks - 1, (count,), generator=generator)
    which = torch.where((draw < product_share) & batch["has_product"], masks - 1, which)
    which = torch.where(draw >= 1 - empty_share, EMPTY, which)
    caption = torch.randint(batch["text"].shape[1], (count,), generator=generator)
    kept = torch.rand(count, generator=generator) >= text_dropout
    rows = torch.arange(count)
    return {
        "latent": batch["latent"].float(),
        "masked": batch["masked"][rows, which].float(),
        "mask": batch["masks"][rows, which][:, None].float() / 255,
        "text": batch["text"][rows, caption].float(),
        "text_length": batch["text_length"][rows, caption].long() * kept,
    }


def train_slices(version_slices: Sequence[Slice]) -> list[Slice]:
    """The slices to learn from. Raises BackdropError when there is none."""
    found = [piece for piece in version_slices if piece.split == "train" and piece.samples]
    if not found:
        raise BackdropError(
            "The dataset version holds no training image.", "Add pictures (IMAGES=…) or keep the sample catalogue."
        )
    return found


def _loader(
    store: ObjectStore,
    slices: Sequence[Slice],
    cache: Path,
    batch_size: int,
    seed: int,
    collate: Callable[[list[dict[str, Any]]], Batch],
) -> StreamingDataLoader:
    from infra._compat.streaming import StreamingDataLoader

    samples = sum(piece.samples for piece in slices)
    batch_size = min(batch_size, samples)
    dataset = streaming_dataset(store, slices, cache, batch_size, shuffle=True, seed=seed)
    return StreamingDataLoader(dataset, batch_size=batch_size, num_workers=0, collate_fn=collate, drop_last=True)
