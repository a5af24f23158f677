"""What is learned from: sizes of aspect-ratio buckets, masks, the cache's key, and encoding in the loop."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra import images
from infra.errors import BackdropError
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import DirectoryStore, ObjectStore
from infra.shards import FILTERED_COLUMNS, Slice, load_slice, make_version, write_slice
from tests.training.filtered import filtered_row
from training.batches import latent_loader, listed_loader
from training.encoding import AT_ONCE, Encoder, encoder_of
from training.latent_slices import find_latents, rewrite_latents
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.io import save_model
from training.models.text_encoder import TextEncoder
from training.presets.sections import DiTSection, LatentsSection, PretrainSection
from training.recipes import latents
from training.recipes.latents import parts_of
from training.samples import picture_size
from training.specs import LatentsSpec, PretrainSpec

SIZE, FACTOR = 32, 4
SECTION = LatentsSection(text_length=8, captions=2, random_masks=2, batch_size=4)
BUCKETS = ("1x2", "9x16", "2x3", "3x4", "4x5", "1x1", "5x4", "4x3", "3x2", "16x9", "2x1")


def samples(count: int, width: int, height: int, tag: str) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(width)
    for index in range(count):
        picture = images.cover(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8), height, width)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 3 : height // 2, width // 3 : width // 2] = 255
        captions = ["a box", "a wall with a box in front of it, and more than fits"]
        yield filtered_row(f"{tag}-{index}", picture, mask if index % 3 else None, captions)


class Bench:
    """A store with pictures of three shapes and an autoencoder that nobody has trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: ObjectStore = DirectoryStore(folder / "store")
        torch.manual_seed(0)
        model = Autoencoder(AutoencoderConfig(FACTOR, 4, 16, 1))
        self.autoencoder = save_model(self.store, "model", "autoencoder", model, {})
        self.slices = [self.slice(9, 48, 64, "3x4"), self.slice(7, 90, 60, "3x2"), self.slice(5, 50, 50, "1x1")]
        held = self.slice(3, 48, 64, "3x4", "holdout")
        self.dataset = make_version(self.store, [*self.slices, held]).version

    def slice(self, count: int, width: int, height: int, bucket: str, split: str = "train") -> Slice:
        rows = samples(count, width, height, f"{split}-{bucket}")
        return write_slice(self.store, "filtered", FILTERED_COLUMNS, rows, {"split": split, "bucket": bucket})

    def spec(self, **changes: Any) -> LatentsSpec:
        return LatentsSpec(
            store=self.store.uri,
            output="out/latents",
            seed=0,
            dataset=self.dataset,
            image_size=SIZE,
            autoencoder=self.autoencoder,
            text_encoder=None,
            config=SECTION.model_copy(update=changes),
        )

    def run(self, **changes: Any) -> tuple[JobResult, dict[str, Any]]:
        spec = self.spec(**changes)
        self.folder.joinpath("job").mkdir(exist_ok=True)
        result = latents.run(spec, JobContext(spec, self.store, spec.output, self.folder / "job"))
        return result, json.loads(self.store.get(result.data["latents"]))

    def encoder(self, **changes: Any) -> Encoder:
        return Encoder(self.store, self.autoencoder, None, SIZE, SECTION.model_copy(update=changes), 0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("latents"))


def test_buckets_have_the_tokens_of_the_square_and_the_nearest_shape() -> None:
    for image_size, unit in ((1024, 32), (512, 16), (256, 16)):
        tokens = (image_size // unit) ** 2
        for bucket in BUCKETS:
            height, width = picture_size(bucket, image_size, unit)
            assert height % unit == width % unit == 0
            rows, columns = height // unit, width // unit
            assert tokens - max(rows, columns) < rows * columns <= tokens
            wanted = int(bucket.split("x")[1]) / int(bucket.split("x")[0])
            assert abs(math.log(height / width / wanted)) < 1.5 / min(rows, columns)
    assert picture_size("1x1", 512, 16) == picture_size("", 512, 16) == (512, 512)
    assert picture_size("3x4", 256, 16) == (288, 224)
    assert picture_size("4x3", 256, 16) == (224, 288)


@pytest.mark.parametrize("name", ["wide", "3x", "3x0", "x", "3x4x5"])
def test_a_bucket_that_is_no_ratio_is_named(name: str) -> None:
    with pytest.raises(BackdropError, match=f"'{name}' is no aspect-ratio bucket"):
        picture_size(name, 256, 16)


def test_without_buckets_all_pictures_are_squares_of_one_bucket(bench: Bench) -> None:
    result, listing = bench.run()
    assert (result.data["encoded"], result.metadata["images"]) == (21, 21)
    loader = listed_loader(bench.store, listing, Path("no cache"), 8, 0, None)
    assert loader.dropped == {"all": 21 % 8}
    side = SIZE // FACTOR
    assert all(batch["latent"].shape == (8, 4, side, side) for batch in islice(loader, 4))
    held = listed_loader(bench.store, listing, Path("no cache"), 8, 0, None, "holdout")
    assert sorted(held.ids(next(held))) == [f"holdout-3x4-{k}" for k in range(3)]


def test_with_buckets_every_batch_has_the_shape_of_its_pictures(bench: Bench) -> None:
    result, listing = bench.run(aspect_ratios=True)
    counts = {name: count for name, count in result.metadata.items() if name.startswith("images_")}
    assert counts == {"images_3x4": 9, "images_3x2": 7, "images_1x1": 5}
    loader = listed_loader(bench.store, listing, Path("no cache"), 4, 0, None)
    assert loader.dropped == {"1x1": 1, "3x2": 3, "3x4": 1}
    seen = set()
    for batch in islice(loader, 2 * len(loader)):
        (bucket,) = {name.split("-")[1] for name in loader.ids(batch)}
        height, width = (side // FACTOR for side in picture_size(bucket, SIZE, 2 * FACTOR))
        assert batch["latent"].shape == (4, 4, height, width)
        assert batch["masks"].shape == (4, 4, height, width)
        seen.add((height, width))
    assert len(seen) == 3


def test_encoding_in_the_loop_gives_what_would_have_been_kept(bench: Bench) -> None:
    for aspect_ratios in (False, True):
        _, kept = bench.run(aspect_ratios=aspect_ratios)
        result, listing = bench.run(aspect_ratios=aspect_ratios, precomputed=False)
        assert result.data["encoded"] == 0
        assert {piece["id"] for piece in listing["slices"]} == {piece.id for piece in bench.slices}
        stored, made = (
            listed_loader(bench.store, one, Path("no cache"), 5, 3, encoder_of(bench.store, one, None))
            for one in (kept, listing)
        )
        assert (len(stored), stored.dropped) == (len(made), made.dropped)
        # The lists are in the same order, so the plans are equal; a picture's neighbours are not the same in both.
        for one, other in islice(zip(stored, made, strict=True), 4):
            assert stored.ids(one) == made.ids(other)
            for name in one.keys() - {"latent", "masked", "text"}:
                assert torch.equal(one[name], other[name]), name
            for name in ("latent", "masked", "text"):
                error = (one[name].float() - other[name].float()).norm() / one[name].float().norm()
                assert error < 0.01, name  # bfloat16, in batches of another size
        made.close()


@pytest.mark.integration
def test_a_model_trains_on_buckets_that_are_encoded_in_the_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import encoding
    from training.recipes import pretrain

    result, _ = bench.run(aspect_ratios=True, precomputed=False, jittered_masks=1)
    loaded: list[Encoder] = []

    class Counted(Encoder):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            loaded.append(self)

    monkeypatch.setattr(encoding, "Encoder", Counted)
    spec = PretrainSpec(
        **bench.spec().model_dump(include={"store", "dataset", "image_size", "autoencoder", "text_encoder", "seed"}),
        output="out/pretrain",
        latents=result.data["latents"],
        dit=DiTSection(width=32, depth=1, heads=2),
        config=PretrainSection(steps=8, batch_size=4, warmup=1, log_every=1, held_out_every=4),
    )
    trained = pretrain.run(spec, JobContext(spec, bench.store, spec.output, bench.folder / "job"))
    curve = json.loads(bench.store.get(trained.files["curve"]))
    assert [row["step"] for row in curve] == list(range(1, 9))
    assert all(math.isfinite(row["loss"]) for row in curve)
    assert trained.metadata["samples_dropped_per_epoch"] == 1 + 3 + 1
    assert len(loaded) == 1  # for the loop and for the held-out samples


def test_no_more_pictures_are_in_memory_than_are_encoded_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = bench.encoder(random_masks=4, jittered_masks=2)
    encoded: list[int] = []

    def encode(pictures: np.ndarray) -> np.ndarray:
        encoded.append(len(pictures))
        return np.arange(len(pictures), dtype=np.float16)[:, None, None, None]

    monkeypatch.setattr(encoder, "encode", encode)
    rows = encoder.pictures(list(samples(20, 50, 50, "x")), "")
    assert [row["id"] for row in rows] == [f"x-{k}" for k in range(20)]
    assert sum(encoded) == 1 + 20 * 8
    assert max(encoded) <= AT_ONCE
    assert rows[7]["masked"].shape == (8, 1, 1, 1)


def test_masks_come_in_their_order(bench: Bench) -> None:
    encoder = bench.encoder(jittered_masks=2, jitter=0.2)
    plain = bench.encoder()
    wider = []
    for index, sample in enumerate(samples(9, 60, 90, "x")):
        holes = encoder.holes(sample, 96, 64)
        assert holes.shape == (6, 96, 64)
        assert (holes[0] == 1).all()
        before = plain.holes(sample, 96, 64)
        assert np.array_equal(before[:3], holes[:3])  # the setting changes nothing but what it adds
        if index % 3:
            assert np.array_equal(before[3], holes[5])
            assert ((holes[3:5] == 0) >= (holes[5] == 0)).all()  # all of the product is kept, and a rim
            wider += [float((hole == 0).sum() / (holes[5] == 0).sum()) for hole in holes[3:5]]
    assert max(wider) > 1.2
    assert len(set(wider)) > 6


def test_the_cache_is_keyed_by_all_that_latents_depend_on(bench: Bench) -> None:
    spec = bench.spec()
    keys = [
        json.dumps(parts_of(source, bucket, one), sort_keys=True)
        for source, bucket, one in (
            ("a", "", spec),
            ("b", "", spec),
            ("a", "3x4", spec),
            ("a", "", spec.model_copy(update={"autoencoder": "f" * 64})),
            ("a", "", spec.model_copy(update={"text_encoder": "someone/else"})),
            ("a", "", spec.model_copy(update={"image_size": 128})),
            ("a", "", spec.model_copy(update={"seed": 1})),
            ("a", "", bench.spec(random_masks=3)),
            ("a", "", bench.spec(jittered_masks=1)),
        )
    ]
    assert len(set(keys)) == len(keys)
    assert {"autoencoder", "image_size", "crop", "dtype", "source"} <= parts_of("a", "", spec).keys()
    for same in (bench.spec(batch_size=2), bench.spec(precomputed=False), bench.spec(device="cpu")):
        assert json.dumps(parts_of("a", "", same), sort_keys=True) == keys[0]


def test_only_what_is_new_is_encoded(bench: Bench) -> None:
    bench.run()
    result, _ = bench.run(batch_size=3)
    assert (result.data["encoded"], result.data["reused"]) == (0, 21)


def test_a_takedown_keeps_the_bucket_of_what_is_left(bench: Bench) -> None:
    bench.run(aspect_ratios=True)
    piece = bench.slices[0]
    found = find_latents(bench.store, parts_of(piece.id, piece.bucket, bench.spec(aspect_ratios=True)))
    assert found is not None
    left = rewrite_latents(bench.store, found, "0" * 64, {"train-3x4-4"})
    assert left is not None
    assert (left.piece.bucket, left.piece.samples, left.parts["crop"]) == ("3x4", 8, "3x4")
    assert load_slice(bench.store, left.piece.prefix)["meta"]["bucket"] == "3x4"
    loader = latent_loader(bench.store, [left.piece], Path("no cache"), 8, 0)
    assert "train-3x4-4" not in loader.ids(next(loader))


def test_captions_that_are_cut_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    encoder = TextEncoder(None, 8)
    with caplog.at_level(logging.WARNING, "training.models.text_encoder"):
        encoder.embed(["a box"])
        assert not caplog.records
        encoder.embed(["a box", "a wall with a box in front of it, and more than fits"])
        encoder.embed(["another wall with a box in front of it, and more than fits"])
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 captions fill all of text_length, 8 tokens: what goes beyond is not read"
    ]


def test_more_tokens_than_the_encoder_reads_is_an_error() -> None:
    with pytest.raises(BackdropError, match=r"text_length is 600, .* reads at most 512 tokens"):
        TextEncoder(None, 600)
