"""The sampler over the real parts: what must hold whatever the weights are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from training.editing import complete, composite
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.dit import DiT, DiTConfig
from training.parts import TorchParts


def embed(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Another text for each caption, of a length of its own."""
    lengths = np.array([1 + len(caption) % 3 for caption in captions], np.uint8)
    rows = [np.random.default_rng(len(caption)).standard_normal((3, 8)) for caption in captions]
    return np.stack(rows).astype(np.float16), lengths


@pytest.fixture(scope="module")
def parts() -> TorchParts:
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderConfig(latent_channels=4, width=8, depth=1))
    dit = DiT(DiTConfig(latent_channels=4, width=16, depth=2, heads=2, text_width=8))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return TorchParts(autoencoder, dit.eval(), embed, 32)


def scene(count: int, height: int = 32, width: int = 32) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    product = np.zeros((count, height, width), bool)
    product[:, height // 2 :, : width // 2] = True
    return images, product, ["a wall"[: 2 + k] for k in range(count)]


def run(parts: TorchParts, images: np.ndarray, product: np.ndarray, captions: list[str], **options) -> np.ndarray:  # type: ignore[no-untyped-def]
    seeds = options.pop("seeds", range(len(images)))
    return complete(
        parts, images, product, captions, **{"steps": 2, "guidance": 2.0, **options}, seeds=seeds, student=False
    )


def test_a_fully_kept_mask_returns_the_input(parts: TorchParts) -> None:
    images, product, captions = scene(2)
    everything = np.ones_like(product)
    assert np.array_equal(composite(images, run(parts, images, everything, captions), everything), images)


def test_guidance_1_is_no_guidance_bit_for_bit(parts: TorchParts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the second forward is taken: what leads away is multiplied by nothing."""
    images, product, captions = scene(2)
    one = run(parts, images, product, captions, guidance=1.0)
    barely = run(parts, images, product, captions, guidance=1.0 + 1e-12)  # float32 has no such number
    assert np.array_equal(one, barely)
    assert not np.array_equal(one, run(parts, images, product, captions, guidance=3.0))


def test_a_batch_of_one_equals_its_row_in_a_batch_of_many(parts: TorchParts) -> None:
    images, product, captions = scene(5)
    many = run(parts, images, product, captions)
    for row in range(5):
        alone = slice(row, row + 1)
        one = run(parts, images[alone], product[alone], captions[alone], seeds=[row])
        assert np.abs(one[0].astype(int) - many[row]).max() <= 1  # a product of another shape may round another way


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 16), (16, 112)])
def test_an_aspect_ratio_never_seen_in_training_runs(parts: TorchParts, height: int, width: int) -> None:
    images, product, captions = scene(2, height, width)
    found = run(parts, images, product, captions)
    assert found.shape == (2, height, width, 3)
    assert found.std() > 0
    assert not np.array_equal(found[0], found[1])


def test_a_negative_text_changes_the_picture_and_the_null_text_stays_the_default(parts: TorchParts) -> None:
    images, product, captions = scene(2)
    plain = run(parts, images, product, captions)
    negative = run(parts, images, product, captions, negative=["a blurred photograph"] * 2)
    assert not np.array_equal(plain, negative)
    assert np.array_equal(plain, run(parts, images, product, captions, negative=None))
