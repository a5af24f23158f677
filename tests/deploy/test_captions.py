"""Embedded captions that are remembered: as from the encoder, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.engines.captions import Remembering

LENGTH, WIDTH = 16, 8


class Encoder:
    """One row of random numbers per token, drawn from the caption; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        self.asked += captions
        text = np.zeros((len(captions), LENGTH, WIDTH), np.float16)
        for row, caption in enumerate(captions):
            words = caption.split()
            text[row, : len(words)] = np.random.default_rng(sum(map(ord, caption))).normal(size=(len(words), WIDTH))
        return text, np.array([len(caption.split()) for caption in captions], np.uint8)


def test_a_remembered_caption_is_what_the_encoder_said() -> None:
    encoder, captions = Encoder(), ["a red box", "", "a blue bottle on a table", "a red box"]
    remembering = Remembering(encoder)
    for _ in range(2):
        text, lengths = remembering(captions)
        np.testing.assert_array_equal(text, Encoder()(captions)[0])
        np.testing.assert_array_equal(lengths, [3, 0, 6, 3])
        assert (text.dtype, lengths.dtype) == (np.float16, np.uint8)
    assert encoder.asked == ["a red box", "", "a blue bottle on a table"]


def test_the_least_recently_asked_are_forgotten_within_the_bytes_given() -> None:
    encoder = Encoder()
    remembering = Remembering(encoder, most=3 * 2 * WIDTH * 2)  # three captions of two words
    for caption in ("one a", "two a", "three a", "one a", "four a", "one a"):
        remembering([caption])
    assert encoder.asked == ["one a", "two a", "three a", "four a"]
    remembering(["two a"])
    assert encoder.asked[-1] == "two a"


def test_a_batch_larger_than_the_memory_is_answered_whole() -> None:
    captions = [f"caption {number}" for number in range(50)]
    text, _ = Remembering(Encoder(), most=4 * WIDTH)(captions)
    np.testing.assert_array_equal(text, Encoder()(captions)[0])
