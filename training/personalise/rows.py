"""Photographs and prompts → the batches of a personalisation: a few rows in memory, shown again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from training.draws import GLOBAL_SIZE, POSITION
from training.editing import to_float
from training.feed import Batch
from training.masks import punch, random_mask, to_cells
from training.models.autoencoder import Autoencoder
from training.precision import mixed

RANDOM_MASKS = 6  # per photograph, beside the whole picture


def encode_pictures(autoencoder: Autoencoder, pictures: np.ndarray, seed: int) -> Batch:
    """Pictures uint8 (N, S, S, 3) → the columns of a latent slice: latent (N, C, h, w), masked (N, K, C, h, w), masks
    (N, K, h, w) uint8, has_product (N,) all False. The first mask is everything, the others are random; the last stands
    where a product's would, is never chosen, and so has no masked latent of its own."""
    size = pictures.shape[1]
    rng = np.random.default_rng([seed, len(pictures)])
    holes = np.stack(
        [[np.ones((size, size)), *(random_mask(rng, size) for _ in range(RANDOM_MASKS))] for _ in pictures]
    ).astype(np.float32)  # (N, K, S, S)
    whole = [to_float(picture) for picture in pictures]
    kept = [punch(picture, hole) for picture, some in zip(whole, holes, strict=True) for hole in some[:-1]]
    tensor = torch.from_numpy(np.stack([*whole, *kept])).permute(0, 3, 1, 2)
    device = autoencoder.mean.device
    with torch.inference_mode(), mixed(device):
        latents = torch.cat([autoencoder.encode(part.to(device)).float().cpu() for part in tensor.split(64)])
    latents = latents.clone()  # out of inference mode: a loss saves them for its backward
    masked = latents[len(pictures) :].unflatten(0, (len(pictures), -1))  # (N, K - 1, C, h, w)
    return {
        "latent": latents[: len(pictures)],
        "masked": torch.cat([masked, masked[:, :1]], dim=1),
        "masks": torch.from_numpy(np.rint(to_cells(holes, autoencoder.config.factor) * 255).astype(np.uint8)),
        "has_product": torch.zeros(len(pictures), dtype=torch.bool),
    }


def with_text(rows: Batch, text: np.ndarray, lengths: np.ndarray, *, prior: bool) -> Batch:
    """The rows with every prompt, text (V, L, E) and lengths (V,), as captions, and `prior` (N,) that says whose."""
    count = len(rows["latent"])
    return {
        **rows,
        "text": torch.from_numpy(text).expand(count, *text.shape),
        "text_length": torch.from_numpy(lengths).expand(count, -1),
        "prior": torch.full((count,), prior),
    }


class SubjectLoader(Iterator[Batch]):
    """Global batches of `batch_size` rows, half of the subject and half of its class, without end.

    Without rows of the class all are the subject's. Rows come in turn; what is random about them is the loss's. The
    same global batches on any number of ranks.
    """

    def __init__(
        self, subject: Batch, prior: Batch | None, batch_size: int, *, start: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        self.subject, self.prior, self.batch_size = subject, prior, batch_size
        self.start, self.rank, self.ranks = start, rank, ranks
        self.dropped: dict[str, int] = {}
        self._next = start

    def at(self, start: int, rank: int = 0, ranks: int = 1) -> SubjectLoader:
        """The same batches from global batch `start` on, as rank `rank` of `ranks` sees them."""
        return SubjectLoader(self.subject, self.prior, self.batch_size, start=start, rank=rank, ranks=ranks)

    def __next__(self) -> Batch:
        number, self._next = self._next, self._next + 1
        ours = self.batch_size if self.prior is None else self.batch_size - self.batch_size // 2
        batch = _turn(self.subject, number, ours)
        if self.prior is not None:
            others = _turn(self.prior, number, self.batch_size - ours)
            batch = {name: torch.cat([batch[name], others[name]]) for name in batch}
        share = self.batch_size // self.ranks
        mine = slice(self.rank * share, (self.rank + 1) * share)
        batch = {name: column[mine] for name, column in batch.items()}
        batch[POSITION] = torch.arange(mine.start, mine.stop)
        batch[GLOBAL_SIZE] = torch.full((share,), self.batch_size)
        return batch

    def close(self) -> None:
        """Nothing is open."""

    def ids(self, batch: Batch) -> list[str]:
        """The rows of a batch have no ids in the catalog."""
        return []


def _turn(rows: Batch, number: int, count: int) -> dict[str, Any]:
    """The `count` rows whose turn it is in batch `number`."""
    index = (number * count + torch.arange(count)) % len(rows["latent"])
    return {name: column[index] for name, column in rows.items()}
