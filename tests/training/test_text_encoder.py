"""The embedded text encoder: what it returns, and what happens when it is missing, altered or not one."""

from pathlib import Path

import numpy as np
import pytest

from infra.errors import BackdropError
from training import text_source
from training.models.text_encoder import TextEncoder


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(None, length=12)


def test_embeddings_are_padded_and_equal_captions_are_equal(encoder: TextEncoder) -> None:
    captions = ["a red mug", "a blue vase on a yellow floor against a wall", "a red mug"]
    text, lengths = encoder.embed(captions)
    assert text.shape == (3, 12, 384)
    assert text.dtype == np.float16
    assert lengths.tolist() == [5, 12, 5]  # with [CLS] and [SEP]; the long one is cut
    assert np.array_equal(text[0], text[2])
    assert not text[0, 5:].any()
    assert text[0, :5].any(axis=1).all()


def test_an_embedding_does_not_depend_on_its_batch(encoder: TextEncoder) -> None:
    alone, _ = encoder.embed(["a red mug"])
    among, _ = encoder.embed(["a red mug", "a very long caption of a blue vase"])
    assert np.abs(alone[0].astype(np.float32) - among[0].astype(np.float32)).max() < 0.05  # bfloat16


def test_colours_are_told_apart(encoder: TextEncoder) -> None:
    text, _ = encoder.embed(["a red wall", "a green wall"])
    assert np.abs(text[0].astype(np.float32) - text[1].astype(np.float32)).max() > 0.2


def test_no_caption_is_no_row(encoder: TextEncoder) -> None:
    text, lengths = encoder.embed([])
    assert text.shape == (0, 12, 384)
    assert lengths.shape == (0,)


def test_a_missing_encoder_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_source, "WHEEL", "a_package_that_is_not_there")
    with pytest.raises(BackdropError, match="make install"):
        TextEncoder(None)


def test_an_altered_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_source, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(BackdropError, match="was altered"):
        TextEncoder(None)


def test_a_folder_without_an_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="BACKDROP_TEXT_ENCODER"):
        TextEncoder(str(tmp_path))
