"""What a training stage shows: its loss curve and a grid of samples, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from infra.images import encode_png
from training.editing import to_uint8

if TYPE_CHECKING:
    from torch import Tensor

LABEL = 14  # pixels of a caption line
GAP = 4


def loss_curve(curve: Sequence[Mapping[str, float]], title: str, names: Sequence[str] = ("loss",)) -> bytes:
    """Rows {"step", name: value} → a PNG with a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in names:
        axes.plot([row["step"] for row in curve], [row[name] for row in curve], label=name, linewidth=1.2)
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def sample_grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], captions: Sequence[str]) -> bytes:
    """Rows of equally sized uint8 pictures (H, W, 3) → a PNG with column titles and a caption under each row."""
    scale = max(1, 128 // rows[0][0].shape[0])
    cell = rows[0][0].shape[0] * scale
    width = len(titles) * (cell + GAP) + GAP
    canvas = np.full((LABEL + len(rows) * (cell + LABEL + GAP), width, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        _write(canvas, title, GAP + column * (cell + GAP), LABEL - 4)
    for index, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = LABEL + index * (cell + LABEL + GAP)
        for column, picture in enumerate(row):
            left = GAP + column * (cell + GAP)
            canvas[top : top + cell, left : left + cell] = picture.repeat(scale, 0).repeat(scale, 1)
        _write(canvas, caption[: width // 6], GAP, top + cell + LABEL - 4)
    return encode_png(canvas)


def tensor_grid(columns: Sequence[Tensor], titles: Sequence[str]) -> bytes:
    """Columns of equally many pictures (N, 3, H, W) in [-1, 1] → a PNG with a row for each, without captions."""
    shown = [[to_uint8(picture.permute(1, 2, 0).numpy()) for picture in column] for column in columns]
    return sample_grid(list(zip(*shown, strict=True)), titles, [""] * len(columns[0]))


def _write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40, 40, 40), 1, cv2.LINE_AA)
