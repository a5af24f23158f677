"""MDS slices → batches: pictures for the autoencoder, latents for the transformer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from infra.object_store import ObjectStore
from infra.shards import Slice
from training.draws import Draws
from training.feed import Batch
from training.loader import Loader, open_loader
from training.samples import square

if TYPE_CHECKING:
    from training.encoding import Encoder

DECODERS = min(8, os.cpu_count() or 1)
"""Threads that decode pictures ahead of the training loop."""
EMPTY, RANDOM = 0, 1
"""Which of a sample's masks is which: everything masked, then the random ones, then the product's, the exact one last.
"""


def listed_loader(
    store: ObjectStore,
    listing: Mapping[str, Any],
    cache: Path,
    batch_size: int,
    seed: int,
    encoder: Encoder | None,
    split: str = "slices",
) -> Loader:
    """The batches of a `latents` listing, as `latent_loader` describes them; `split` may be "holdout".

    With an `encoder` (`encoding.encoder_of`) the pictures are encoded ahead of the training loop, into what the recipe
    would have kept.
    """
    slices = [Slice(**piece) for piece in listing[split]]
    if encoder is None:
        return latent_loader(store, slices, cache, batch_size, seed)

    def collate(samples: list[dict[str, Any]], bucket: str) -> Batch:
        return stack_latents(encoder.rows(samples, bucket))

    return open_loader(store, slices, cache, batch_size, seed, collate)


def image_loader(
    store: ObjectStore, slices: Sequence[Slice], cache: Path, batch_size: int, image_size: int, seed: int
) -> Loader:
    """Batches {"image": uint8 (B, 3, S, S)}, shuffled; aspect-ratio buckets make no difference."""

    def collate(samples: list[dict[str, Any]], bucket: str) -> Batch:
        pictures = [square(sample, image_size) for sample in samples]
        return {"image": torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)}

    whole = [replace(piece, bucket="") for piece in slices]
    return open_loader(store, whole, cache, batch_size, seed, collate, threads=DECODERS)


def latent_loader(
    store: ObjectStore,
    slices: Sequence[Slice],
    cache: Path,
    batch_size: int,
    seed: int,
) -> Loader:
    """Batches of latent slices, shuffled, with every variant of a sample: see `choose`.

    latent (B, C, h, w), masked (B, K, C, h, w), masks (B, K, h, w), text (B, V, L, E), text_length (B, V),
    has_product (B,), and what Loader adds. Slices of one bucket make batches of their own: h and w are those of the
    batch's bucket.
    """
    return open_loader(store, slices, cache, batch_size, seed, lambda rows, bucket: stack_latents(rows))


def stack_latents(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Rows of a latent slice as one batch; the text as long as the longest."""
    columns = ("latent", "masked", "masks", "text", "text_length")
    batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in columns}
    longest = int(batch["text_length"].max())
    batch["text"] = batch["text"][:, :, :longest]
    batch["has_product"] = torch.tensor([row["has_product"] for row in rows], dtype=torch.bool)
    return batch


def choose(
    batch: Batch, product_share: float, empty_share: float, text_dropout: float, draws: Draws, jittered: int = 0
) -> Batch:
    """One mask and one caption per sample, drawn.

    latent, masked (B, C, h, w), mask (B, 1, h, w), text (B, L, E), text_length (B,). A sample without a product
    mask gets a random one in its stead. A dropped text has length 0. `jittered` says how many of the masks before the
    last are the product's too, its outline drawn a little wider: each of them is as likely as the exact one.
    """
    exact = batch["masks"].shape[1] - 1
    draw = draws.uniform("mask")
    which = RANDOM + draws.integers("which mask", exact - jittered - RANDOM)
    product = exact - draws.integers("which product mask", jittered + 1)
    which = torch.where((draw < product_share) & batch["has_product"], product, which)
    which = torch.where(draw >= 1 - empty_share, EMPTY, which)
    caption = draws.integers("caption", batch["text"].shape[1])
    kept = draws.uniform("text dropout") >= text_dropout
    rows = torch.arange(len(which), device=which.device)
    return {
        "latent": batch["latent"].float(),
        "masked": batch["masked"][rows, which].float(),
        "mask": batch["masks"][rows, which][:, None].float() / 255,
        "text": batch["text"][rows, caption].float(),
        "text_length": batch["text_length"][rows, caption].long() * kept,
    }
