"""Recipe: encode pictures, masked pictures and captions once, slice by slice; what is there already is kept.

With `precomputed: false` nothing is encoded but the examples: the listing names the pictures' own slices, and the loop
that trains on it encodes each batch.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, cached_property, partial
from itertools import islice
from typing import Any

import numpy as np

from infra.files import canonical_json, sha256_bytes
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.shards import Slice, load_version, read_slices, write_slice
from infra.sources import source_hash
from training.encoding import DTYPE, Encoder
from training.latent_slices import (
    EXAMPLES,
    example_ids,
    find_latents,
    latent_key,
    latent_meta,
    record_latents,
)
from training.samples import product_of, square, train_slices
from training.specs import LatentsSpec
from training.text_source import identity

SHOWN = 8


def run(spec: LatentsSpec, job: JobContext[LatentsSpec]) -> JobResult:
    version = load_version(job.store, spec.dataset)
    slices, held_out = train_slices(version.slices), [piece for piece in version.of("holdout") if piece.samples]
    encoding = _Encoding(spec, job, sum(piece.samples for piece in [*slices, *held_out]))
    done = [encoding.slice(piece) for piece in slices]
    counts = {"encoded": encoding.encoded, "reused": encoding.reused}
    held = [encoding.slice(piece) for piece in held_out]
    job.progress("latents", encoding.total, encoding.total, "images")
    examples = f"{EXAMPLES}{sha256_bytes(canonical_json(parts_of(spec.dataset, '', spec)))}.npz"
    if not job.store.exists(examples):
        job.store.put(examples, _examples(encoding.encoder, job, held_out or slices))
    job.note_shown(examples, example_ids(job.store, examples))
    listing = {
        "version": sha256_bytes(canonical_json([piece.id for piece in done])),
        "slices": [asdict(piece) for piece in done],
        "holdout": [asdict(piece) for piece in held],
        "autoencoder": spec.autoencoder,
        "text_encoder": identity(spec.text_encoder),
        "dataset": spec.dataset,
        "image_size": spec.image_size,
        "section": spec.config.model_dump(mode="json"),
        "seed": spec.seed,
        "examples": examples,
    }
    images = sum(piece.samples for piece in slices)
    return JobResult(
        metadata={"images": images, **counts, "slices": len(done), **_per_bucket(done)},
        data={"latents": job.put_json("latents", listing), **counts},
    )


def parts_of(source: str, bucket: str, spec: LatentsSpec) -> dict[str, Any]:
    """What the latents of `source` (a slice or a dataset version) depend on.

    A slice's id is the hash of its images, captions and masks. `bucket` is "" where pictures are cut to squares.
    """
    return {
        "source": source,
        "autoencoder": spec.autoencoder,
        "text_encoder": identity(spec.text_encoder),
        "image_size": spec.image_size,
        "crop": bucket or "square",
        "dtype": DTYPE,
        "section": spec.config.model_dump(mode="json", exclude={"precomputed", "batch_size", "device"}),
        "seed": spec.seed,
        "code": _code(),
    }


@cache
def _code() -> str:
    """The version of what encodes: that which this process has loaded, so it is looked up once."""
    return source_hash("training.encoding")


class _Encoding:
    """The slices of one run on their way."""

    def __init__(self, spec: LatentsSpec, job: JobContext[LatentsSpec], total: int) -> None:
        self.spec, self.job, self.total = spec, job, total
        self.encoded = self.reused = 0

    @cached_property
    def encoder(self) -> Encoder:
        """Loaded only where something has to be encoded."""
        spec = self.spec
        return Encoder(self.job.store, spec.autoencoder, spec.text_encoder, spec.image_size, spec.config, spec.seed)

    def slice(self, piece: Slice) -> Slice:
        """What is trained on in place of a filtered slice: its latents, or itself, in the bucket it is cut to."""
        bucket = piece.bucket if self.spec.config.aspect_ratios else ""
        if not self.spec.config.precomputed:
            return replace(piece, bucket=bucket)
        parts = parts_of(piece.id, bucket, self.spec)
        found = find_latents(self.job.store, parts)
        if found is not None:
            self.reused += piece.samples
            return found.piece
        latents = self._encode(piece, bucket, latent_key(parts))
        record_latents(self.job.store, parts, latents)  # last: only now is it there
        self.encoded += piece.samples
        return latents

    def _encode(self, piece: Slice, bucket: str, root: str) -> Slice:
        """Encode one filtered slice into one latent slice below the key prefix `root`."""
        encoder, store, cache = self.encoder, self.job.store, self.job.folder / "cache"
        report = partial(self.job.progress, total=self.total, unit="images")
        before = self.reused + self.encoded
        report("captions", before)
        text, lengths = encoder.texts(read_slices(store, [piece], cache))  # all at once: equal captions are many

        def rows() -> Iterator[dict[str, Any]]:
            index = 0
            for batch in _batched(read_slices(store, [piece], cache), self.spec.config.batch_size):
                for row in encoder.pictures(batch, bucket):
                    yield {**row, "text": text[index], "text_length": lengths[index]}
                    index += 1
                report("latents", before + index)

        return write_slice(store, root, encoder.columns(bucket), rows(), latent_meta(piece.split, piece.id, bucket))


def _examples(encoder: Encoder, job: JobContext[Any], slices: Sequence[Slice]) -> bytes:
    """The pictures that every stage draws its sample grid from, as an .npz without pickles."""
    size = encoder.image_size
    samples = read_slices(job.store, slices, job.folder / "cache")
    found = list(islice((sample for sample in samples if sample["mask"] and sample["captions"]), SHOWN))
    text, lengths = encoder.text.embed([sample["captions"][0] for sample in found])
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.array([sample["id"] for sample in found], dtype=np.str_),
        images=np.array([square(sample, size) for sample in found], np.uint8).reshape(-1, size, size, 3),
        product=np.array([product_of(sample, size, size) for sample in found], bool).reshape(-1, size, size),
        captions=np.array([sample["captions"][0] for sample in found], dtype=np.str_),
        text=text,
        text_length=lengths,
    )
    return buffer.getvalue()


def _per_bucket(slices: Sequence[Slice]) -> dict[str, int]:
    """Images in each aspect-ratio bucket, where there are any."""
    counts: dict[str, int] = {}
    for piece in slices:
        if piece.bucket:
            name = f"images_{piece.bucket}"
            counts[name] = counts.get(name, 0) + piece.samples
    return counts


def _batched(samples: Iterator[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(samples, count)):
        yield batch
