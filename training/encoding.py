"""A filtered sample → what the transformer learns from: latents, masked latents, masks and text, by frozen encoders."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from infra.object_store import ObjectStore
from training import precision
from training.editing import to_float
from training.masks import jittered_hole, product_hole, punch, random_mask, to_cells
from training.models.autoencoder import Autoencoder
from training.models.io import load_model
from training.models.text_encoder import TextEncoder
from training.presets.sections import LatentsSection
from training.samples import latent_columns, picture_of, picture_size, product_of

DTYPE = "float16"
"""Of latents and text, as they are kept."""
AT_ONCE = 64
"""Pictures, whole or with a hole, that are in memory and that the autoencoder sees at once."""

Sample = dict[str, Any]


class Encoder:
    """The frozen encoders of one run. What they make of a sample follows from it, `section` and `seed` alone."""

    def __init__(
        self,
        store: ObjectStore,
        autoencoder: str,
        text_encoder: str | None,
        image_size: int,
        section: LatentsSection,
        seed: int,
    ) -> None:
        self.image_size, self.section, self.seed = image_size, section, seed
        self.device = precision.device_named(section.device)
        self.autoencoder: Autoencoder = load_model(store, autoencoder).to(self.device)
        self.text = TextEncoder(text_encoder, section.text_length, self.device)
        self.factor = self.autoencoder.config.factor

    @property
    def variants(self) -> int:
        """K, the masks of a sample: everything, the random ones, the product's jittered, the product's."""
        return self.section.random_masks + self.section.jittered_masks + 2

    def shape(self, bucket: str) -> tuple[int, int]:
        """(height, width) of the pictures of a bucket, in pixels."""
        return picture_size(bucket, self.image_size, self.factor * self.section.patch)

    def columns(self, bucket: str) -> dict[str, str]:
        """The columns of a latent slice of this bucket."""
        height, width = self.shape(bucket)
        return latent_columns(
            self.autoencoder.config.latent_channels,
            height // self.factor,
            width // self.factor,
            self.variants,
            self.section.captions,
            self.section.text_length,
            self.text.width,
        )

    def rows(self, samples: Sequence[Sample], bucket: str) -> list[Sample]:
        """Rows of a latent slice."""
        text, lengths = self.texts(samples)
        pictures = self.pictures(samples, bucket)
        return [{**row, "text": text[index], "text_length": lengths[index]} for index, row in enumerate(pictures)]

    def pictures(self, samples: Sequence[Sample], bucket: str) -> list[Sample]:
        """id, latent, masked, masks and has_product of filtered samples."""
        step = max(1, AT_ONCE // self.variants)
        empty = self.encode(np.zeros((1, *self.shape(bucket), 3), np.float32))
        parts = [samples[first : first + step] for first in range(0, len(samples), step)]
        return [row for part in parts for row in self._pictures(part, bucket, empty)]

    def _pictures(self, samples: Sequence[Sample], bucket: str, empty: np.ndarray) -> list[Sample]:
        """`pictures` of a few; `empty` (1, C, h, w) is the latent of a picture that is all hole."""
        shape = self.shape(bucket)
        pictures = [to_float(picture_of(sample, *shape)) for sample in samples]
        holes = [self.holes(sample, *shape) for sample in samples]
        kept = [punch(picture, hole) for picture, some in zip(pictures, holes, strict=True) for hole in some[1:]]
        latents = self.encode(np.stack([*pictures, *kept]))
        own, masked = latents[: len(samples)], latents[len(samples) :]
        masked = masked.reshape(len(samples), -1, *masked.shape[1:])
        return [
            {
                "id": sample["id"],
                "latent": own[index],
                "masked": np.concatenate([empty, masked[index]]),
                "masks": np.rint(to_cells(holes[index], self.factor) * 255).astype(np.uint8),
                "has_product": int(bool(sample["mask"])),
            }
            for index, sample in enumerate(samples)
        ]

    def holes(self, sample: Sample, height: int, width: int) -> np.ndarray:
        """float32 (K, H, W): everything, the random ones, the product's jittered, the product's.

        Without a product, random ones in its stead.
        """
        section = self.section
        rng = np.random.default_rng([self.seed, zlib.crc32(sample["id"].encode())])
        holes = [np.ones((height, width), np.float32)]
        holes += [random_mask(rng, height, width) for _ in range(section.random_masks)]
        if not sample["mask"]:
            last = random_mask(rng, height, width)
            return np.stack([*holes, *(random_mask(rng, height, width) for _ in range(section.jittered_masks)), last])
        product = product_of(sample, height, width)
        reach = section.jitter * min(height, width)
        holes += [jittered_hole(rng, product, reach) for _ in range(section.jittered_masks)]
        return np.stack([*holes, product_hole(product)])

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) in [-1, 1] → float16 latents (N, C, h, w)."""
        tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        with torch.inference_mode(), precision.mixed(self.device):
            parts = [self.autoencoder.encode(part.to(self.device)).float().cpu() for part in tensor.split(AT_ONCE)]
        return torch.cat(parts).half().numpy()

    def texts(self, samples: Iterable[Sample]) -> tuple[np.ndarray, np.ndarray]:
        """text (N, V, L, E) and lengths (N, V) of the samples' captions."""
        captions = [caption for sample in samples for caption in self.captions(sample)]
        text, lengths = self.text.embed(captions)
        count = self.section.captions
        return text.reshape(-1, count, *text.shape[1:]), lengths.reshape(-1, count)

    def captions(self, sample: Sample) -> list[str]:
        """As many captions as the section says: a turn of the sample's own, so that all phrasings are seen."""
        own = sample["captions"] or [""]
        first = zlib.crc32(sample["id"].encode())
        return [own[(first + index) % len(own)] for index in range(self.section.captions)]


def encoder_of(store: ObjectStore, listing: Mapping[str, Any], text_encoder: str | None) -> Encoder | None:
    """What encodes the pictures of a `latents` listing while they are trained on; None where that was done before."""
    section = LatentsSection(**listing["section"])
    if section.precomputed:
        return None
    return Encoder(store, listing["autoencoder"], text_encoder, listing["image_size"], section, listing["seed"])
