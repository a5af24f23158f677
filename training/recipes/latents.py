"""Recipe: encode pictures, masked pictures and captions once, slice by slice; what is there already is kept."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

from infra import images as codecs
from infra.files import canonical_json, sha256_bytes
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore
from infra.shards import Slice, load_version, read_slices, write_slice
from infra.sources import source_hash
from training import precision
from training.batches import latent_columns, square, train_slices
from training.editing import to_float
from training.latent_slices import EXAMPLES, example_ids, find_latents, latent_key, record_latents
from training.masks import product_hole, punch, random_mask, to_cells
from training.models.autoencoder import Autoencoder
from training.models.io import load_model
from training.models.text_encoder import TextEncoder
from training.specs import LatentsSpec
from training.text_source import identity

SHOWN = 8


def run(spec: LatentsSpec, job: JobContext[LatentsSpec]) -> JobResult:
    version = load_version(job.store, spec.dataset)
    slices = train_slices(version.slices)
    text_id = identity(spec.text_encoder)
    done: list[Slice] = []
    encoder: Encoder | None = None
    reused = encoded = 0
    total = sum(piece.samples for piece in slices)
    for piece in slices:
        parts = parts_of(piece.id, spec, text_id)
        found = find_latents(job.store, parts)
        if found is not None:
            done.append(found.piece)
            reused += piece.samples
            continue
        encoder = encoder or Encoder(spec, job.store)
        latents = encoder.slice(job, piece, latent_key(parts), reused + encoded, total)
        record_latents(job.store, parts, latents)  # last: only now is it there
        done.append(latents)
        encoded += piece.samples
    job.progress("latents", total, total, "images")
    examples = f"{EXAMPLES}{sha256_bytes(canonical_json(parts_of(spec.dataset, spec, text_id)))}.npz"
    if not job.store.exists(examples):
        encoder = encoder or Encoder(spec, job.store)
        job.store.put(examples, encoder.examples(job, version.of("holdout") or slices))
    job.note_shown(examples, example_ids(job.store, examples))
    listing = {
        "version": sha256_bytes(canonical_json([piece.id for piece in done])),
        "slices": [asdict(piece) for piece in done],
        "autoencoder": spec.autoencoder,
        "text_encoder": text_id,
        "dataset": spec.dataset,
        "image_size": spec.image_size,
        "examples": examples,
    }
    return JobResult(
        metadata={"images": total, "encoded": encoded, "reused": reused, "slices": len(done)},
        data={"latents": job.put_json("latents", listing), "encoded": encoded, "reused": reused},
    )


def parts_of(source: str, spec: LatentsSpec, text_encoder: str) -> dict[str, Any]:
    """What the latents of `source` (a slice or a dataset version) depend on."""
    return {
        "source": source,
        "autoencoder": spec.autoencoder,
        "text_encoder": text_encoder,
        "image_size": spec.image_size,
        "section": spec.config.model_dump(),
        "seed": spec.seed,
        "code": source_hash("training.recipes.latents"),
    }


class Encoder:
    """The frozen encoders of one run."""

    def __init__(self, spec: LatentsSpec, store: ObjectStore) -> None:
        self.spec = spec
        self.autoencoder: Autoencoder = load_model(store, spec.autoencoder)
        self.text = TextEncoder(spec.text_encoder, spec.config.text_length)

    def slice(self, job: JobContext[Any], piece: Slice, root: str, before: int, total: int) -> Slice:
        """Encode one filtered slice into one latent slice below the key prefix `root`."""
        config = self.autoencoder.config
        section = self.spec.config
        columns = latent_columns(
            config.latent_channels,
            self.spec.image_size // config.factor,
            section.random_masks + 2,
            section.captions,
            section.text_length,
            self.text.width,
        )
        cache = job.folder / "cache"
        captions = [self.captions(sample) for sample in read_slices(job.store, [piece], cache)]
        report = partial(job.progress, total=total, unit="images")
        report("captions", before)
        text, lengths = self.text.embed([caption for some in captions for caption in some])
        text = text.reshape(len(captions), section.captions, *text.shape[1:])
        lengths = lengths.reshape(len(captions), section.captions)

        def rows() -> Iterator[dict[str, Any]]:
            index = 0
            for batch in _batched(read_slices(job.store, [piece], cache), section.batch_size):
                for row in self.pictures(batch):
                    yield {**row, "text": text[index], "text_length": lengths[index]}
                    index += 1
                report("latents", before + index)

        return write_slice(job.store, root, columns, rows(), {"split": piece.split, "source": piece.id})

    def pictures(self, samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """id, latent, masked, masks and has_product of filtered samples."""
        size, factor = self.spec.image_size, self.autoencoder.config.factor
        pictures = [to_float(square(sample, size)) for sample in samples]
        holes = [self.holes(sample) for sample in samples]
        kept = [punch(picture, hole) for picture, some in zip(pictures, holes, strict=True) for hole in some[1:]]
        everything = np.zeros((1, size, size, 3), np.float32)
        latents = self.encode(np.concatenate([np.stack(pictures), np.stack(kept), everything]))
        own, masked, empty = latents[: len(samples)], latents[len(samples) : -1], latents[-1:]
        masked = masked.reshape(len(samples), -1, *masked.shape[1:])
        for index, sample in enumerate(samples):
            yield {
                "id": sample["id"],
                "latent": own[index],
                "masked": np.concatenate([empty, masked[index]]),
                "masks": np.rint(to_cells(holes[index], factor) * 255).astype(np.uint8),
                "has_product": int(bool(sample["mask"])),
            }

    def holes(self, sample: dict[str, Any]) -> np.ndarray:
        """float32 (K, S, S): everything, the random ones, the product's (without one, another random one)."""
        size = self.spec.image_size
        rng = np.random.default_rng([self.spec.seed, zlib.crc32(sample["id"].encode())])
        holes = [random_mask(rng, size) for _ in range(self.spec.config.random_masks)]
        last = product_hole(product_of(sample, size)) if sample["mask"] else random_mask(rng, size)
        return np.stack([np.ones((size, size), np.float32), *holes, last])

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) in [-1, 1] → float16 latents (N, C, h, w)."""
        tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        with torch.inference_mode(), precision.autocast(precision.fast_dtype()):
            parts = [self.autoencoder.encode(part).float() for part in tensor.split(64)]
        return torch.cat(parts).half().numpy()

    def captions(self, sample: dict[str, Any]) -> list[str]:
        """As many captions as the section says: a turn of the sample's own, so that all phrasings are seen."""
        own = sample["captions"] or [""]
        first = zlib.crc32(sample["id"].encode())
        return [own[(first + index) % len(own)] for index in range(self.spec.config.captions)]

    def examples(self, job: JobContext[Any], slices: list[Slice]) -> bytes:
        """The pictures that every stage draws its sample grid from, as an .npz without pickles."""
        size = self.spec.image_size
        found: list[dict[str, Any]] = []
        for sample in read_slices(job.store, slices, job.folder / "cache"):
            if sample["mask"] and sample["captions"]:
                found.append(sample)
            if len(found) == SHOWN:
                break
        text, lengths = self.text.embed([sample["captions"][0] for sample in found])
        buffer = io.BytesIO()
        np.savez(
            buffer,
            ids=np.array([sample["id"] for sample in found], dtype=np.str_),
            images=np.array([square(sample, size) for sample in found], np.uint8).reshape(-1, size, size, 3),
            product=np.array([product_of(sample, size) for sample in found], bool).reshape(-1, size, size),
            captions=np.array([sample["captions"][0] for sample in found], dtype=np.str_),
            text=text,
            text_length=lengths,
        )
        return buffer.getvalue()


def product_of(sample: dict[str, Any], size: int) -> np.ndarray:
    """bool (size, size), True on the product."""
    mask = codecs.decode_mask(sample["mask"])
    return mask if mask.shape == (size, size) else codecs.fit(mask.astype(np.uint8) * 255, size) > 127


def _batched(samples: Iterator[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch
