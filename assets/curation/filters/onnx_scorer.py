"""Scores by an ONNX file.

Its input `image` (or its only input of four dimensions) is float32 (1, 3, S, S), normalised by the section's mean and
std; a second input `text` is one string, so a model that reads captions brings its tokeniser inside the file. The best
caption counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from assets.curation.filters.base import Picture
from assets.curation.filters.scorers import DEFAULT_SIZE, chosen_output, model_input
from assets.curation.filters.settings import ScorerSection
from infra.errors import BackdropError


def open_session(path: str) -> Any:
    """An ONNX Runtime session on one thread: the scan's workers already use every core. Raises BackdropError."""
    import onnxruntime

    if not Path(path).is_file():
        raise BackdropError(f"there is no model at {path}", "set the path of an ONNX file, or leave the model out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen kinds of its own, all for a file that it cannot use
        raise BackdropError(f"{path} is no ONNX model that can be run: {error}", "export it again") from error


def inputs_of(session: Any, path: str) -> tuple[str, int, bool]:
    """(name of the image input, its side in pixels, whether there is a `text` input). Raises BackdropError."""
    inputs = {given.name: given for given in session.get_inputs()}
    images = [given for given in inputs.values() if len(given.shape) == 4]
    if len(images) != 1 or set(inputs) - {images[0].name, "text"}:
        shapes = ", ".join(f"{given.name} {given.shape}" for given in inputs.values())
        raise BackdropError(f"{path} has the inputs {shapes}", "give it `image` (1, 3, S, S) and at most `text`")
    side = images[0].shape[-1]
    return images[0].name, side if isinstance(side, int) else DEFAULT_SIZE, "text" in inputs


class OnnxScorer:
    """One session, made with the filter's first picture."""

    def __init__(self, section: ScorerSection) -> None:
        assert section.onnx is not None
        self._section = section
        self._session = open_session(section.onnx)
        self._image, self._size, self._text = inputs_of(self._session, section.onnx)

    def score(self, picture: Picture) -> float:
        feed = {self._image: model_input(picture.pixels, self._size, self._section.mean, self._section.std)}
        if not self._text:
            return self._run(feed)
        captions = picture.captions or ("",)
        return max(self._run(feed | {"text": np.array([caption], dtype=object)}) for caption in captions)

    def _run(self, feed: dict[str, np.ndarray]) -> float:
        return chosen_output(self._session.run(None, feed)[0], self._section)
