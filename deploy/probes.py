"""What graphs are compared on: pictures and captions of the line, at shapes that no export ever saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deploy.engines.captions import tokens_of
from training.editing import noise
from training.models.autoencoder import Autoencoder
from training.models.text_encoder import TextEncoder

#: (batch, more rows, more columns of patches than the preset's own grid): none of them is the export's example.
SHAPES = ((1, 0, 0), (3, 0, 0), (5, 1, -1), (2, -1, 2), (4, 2, 1), (6, -1, -1))
#: The same where graphs are compared node by node: every tensor inside is kept, so the grid is at most this large.
INSIDE, INSIDE_GRID = ((3, 0, 0), (2, -1, 2)), 8

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Probe:
    """The inputs of every graph at one shape, in the order of its inputs."""

    shape: str
    feeds: dict[str, Arrays]  # graph → inputs


@dataclass(frozen=True)
class Probes:
    """Makes them. `images` float32 (N, 3, H, W) in [-1, 1], N at least 1, are tiled and cropped to each shape."""

    images: np.ndarray
    captions: Sequence[str]
    seed: int
    patch: int

    def at(self, autoencoder: Autoencoder, text_encoder: TextEncoder, masked_decoder: bool) -> Iterator[Probe]:
        """One probe per entry of `SHAPES`, for the graphs "encoder", "decoder", "text" and "trunk"."""
        yield from self._at(SHAPES, max(self.images.shape[2:]), autoencoder, text_encoder, masked_decoder)

    def inside(self, autoencoder: Autoencoder, text_encoder: TextEncoder, masked_decoder: bool) -> Iterator[Probe]:
        """The same per entry of `INSIDE`, on small pictures: a large model's tensors at its own size fill no memory."""
        yield from self._at(INSIDE, INSIDE_GRID, autoencoder, text_encoder, masked_decoder)

    def _at(
        self,
        shapes: Sequence[tuple[int, int, int]],
        largest: int,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        masked_decoder: bool,
    ) -> Iterator[Probe]:
        unit = self.patch * autoencoder.config.factor
        grid = [min(largest, side // unit) for side in self.images.shape[2:]]
        for batch, *more in shapes:
            height, width = (max(1, side + extra) * unit for side, extra in zip(grid, more, strict=True))
            yield self.one(autoencoder, text_encoder, masked_decoder, batch, height, width)

    def one(
        self,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        masked_decoder: bool,
        batch: int,
        height: int,
        width: int,
    ) -> Probe:
        """The probe of `batch` pictures of this size."""
        rng = np.random.default_rng([self.seed, batch, height, width])
        pictures = np.ascontiguousarray(_tile(self.images, batch, height, width))
        with torch.inference_mode():
            latents = autoencoder.encode(torch.from_numpy(pictures)).numpy()  # (B, C, h, w)
        t = rng.uniform(0.05, 1.0, batch).astype(np.float32)
        z = noise(range(self.seed, self.seed + batch), latents.shape[1:])
        z = (1 - t[:, None, None, None]) * latents + t[:, None, None, None] * z
        cells = (rng.random((batch, 1, *latents.shape[2:])) < 0.7).astype(np.float32)
        captions = [self.captions[k % len(self.captions)] for k in range(batch)]
        text, length = text_encoder.embed(captions)
        away, away_length = text_encoder.embed([self.captions[(k + 1) % len(self.captions)] for k in range(batch)])
        # A caption that was dropped and a negative one that is not there have length 0.
        length = np.where(np.arange(batch) == batch - 1, 0 if batch > 1 else length, length).astype(np.int64)
        away_length = np.where(np.arange(batch) == 0, 0, away_length).astype(np.int64)
        away = away[:, : max(2, int(away_length.max()))]  # as an engine cuts it, so not of the captions' length
        decoder: Arrays = {"latents": latents}
        if masked_decoder:
            factor = autoencoder.config.factor
            mask = np.ascontiguousarray(cells.repeat(factor, 2).repeat(factor, 3))
            decoder |= {"mask": mask, "original": pictures}
        ids, valid = tokens_of(
            text_encoder.tokenizer(captions, truncation=True, max_length=text_encoder.length)["input_ids"]
        )
        feeds: dict[str, Arrays] = {
            "encoder": {"images": pictures},
            "decoder": decoder,
            "text": {"ids": ids, "valid": valid},
            "trunk": {
                "z": z.astype(np.float32),
                "t": t,
                "masked": latents,
                "mask": cells,
                "text": text.astype(np.float32),
                "text_length": length,
                "step": rng.choice([0.125, 0.25, 0.5, 1.0], batch).astype(np.float32),
                "guidance": rng.uniform(1.0, 4.0, batch).astype(np.float32),
                "negative": away.astype(np.float32),
                "negative_length": away_length,
            },
        }
        return Probe(f"{batch} × {height} × {width}, {text.shape[1]} tokens", feeds)


def _tile(images: np.ndarray, batch: int, height: int, width: int) -> np.ndarray:
    """(N, 3, H, W) repeated and cropped to (batch, 3, height, width)."""
    repeats = (-(-batch // images.shape[0]), 1, -(-height // images.shape[2]), -(-width // images.shape[3]))
    return np.tile(images, repeats)[:batch, :, :height, :width]
