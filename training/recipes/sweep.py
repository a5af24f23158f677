"""Recipe: one autoencoder per latent size, and what each loses: Rombach et al. 2022's trade-off (their §4.1).

Every point is trained alike and measured on held-out pictures; a stopped sweep goes on at the point where it stopped.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from infra.errors import BackdropError
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training.models.autoencoder import Autoencoder
from training.perceptual import perceptual_distance, random_features
from training.pictures import tensor_grid
from training.recipes.autoencoder import SHOWN, Pictures, psnr, read_pictures, reconstructed, train
from training.recipes.fit import forget_checkpoints
from training.specs import SweepSpec

log = logging.getLogger(__name__)

HELD_OUT = 256  # pictures

Row = dict[str, Any]


def run(spec: SweepSpec, job: JobContext[SweepSpec]) -> JobResult:
    if spec.config.diffusers is not None or spec.config.masked_decoder is not None:
        what = "A sweep trains one autoencoder per latent size: it takes neither diffusers nor masked_decoder."
        raise BackdropError(what, "Leave them out of the sweep's config.")
    data = Pictures(job, spec.dataset, spec.image_size, spec.seed)
    ids, images = read_pictures(job, data.held_out, spec.image_size, HELD_OUT)
    rows: list[Row] = []
    columns = [images[:SHOWN]]
    for factor, channels in points(spec):
        section = spec.config.model_copy(update={"factor": factor, "latent_channels": channels})
        trained, fitted = train(job, f"f{factor} c{channels}", section, data)
        decoded = reconstructed(trained, images)
        rows.append({**measured(trained, decoded, images), "seconds": fitted.metadata["seconds"]})
        columns.append(decoded[:SHOWN])
    text = table(rows)
    log.info("reconstruction against latent size, %d held-out pictures:\n%s", len(images), text)
    result = JobResult(
        metadata={f"f{row['factor']}_c{row['channels']}_psnr_db": row["psnr_db"] for row in rows},
        files={"sweep": job.put_json("sweep", rows)},
        data={"sweep": rows, "table": text},
        pictures={
            "Trade-off": job.put_png("trade-off", plot(rows)),
            "Samples": job.put_png("samples", _grid(columns, rows), ids[:SHOWN]),
        },
    )
    forget_checkpoints(job)
    return result


def points(spec: SweepSpec) -> list[tuple[int, int]]:
    """(factor, latent channels) of each autoencoder, coarser ones later."""
    return [(factor, channels) for factor in spec.factors for channels in spec.latent_channels]


def measured(model: Autoencoder, decoded: Tensor, images: Tensor) -> Row:
    """One point: its latent's size and what reconstructing (N, 3, H, W) in [-1, 1] loses."""
    config, cells = model.config, math.prod(images.shape[2:]) // model.config.factor**2
    error = decoded - images
    features = random_features()
    with torch.no_grad():
        parts = zip(decoded.split(64), images.split(64), strict=True)
        distance = torch.cat([perceptual_distance(features, ours, theirs) for ours, theirs in parts])
    return {
        "factor": config.factor,
        "channels": config.latent_channels,
        "latent": cells * config.latent_channels,
        "compression": round(math.prod(images.shape[1:]) / (cells * config.latent_channels), 1),
        "psnr_db": round(psnr(decoded, images), 2),
        "l1": round(float(127.5 * error.abs().mean()), 2),
        "perceptual": round(float(distance.mean()), 4),
    }


def table(rows: Sequence[Row]) -> str:
    """Aligned text; `latent` counts numbers per picture, `l1` is in levels of 255."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def plot(rows: Sequence[Row]) -> bytes:
    """PSNR against the numbers that a picture's latent has, one line per count of channels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for channels in sorted({row["channels"] for row in rows}):
        line = [row for row in rows if row["channels"] == channels]
        sizes, decibels = [row["latent"] for row in line], [row["psnr_db"] for row in line]
        axes.plot(sizes, decibels, marker="o", linewidth=1.2, label=f"{channels} channels")
        for row, size, decibel in zip(line, sizes, decibels, strict=True):
            axes.annotate(f"f{row['factor']}", (size, decibel), xytext=(4, -12), textcoords="offset points")
    axes.set(xlabel="numbers per latent", ylabel="PSNR, dB", title="Reconstruction against latent size")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _grid(columns: Sequence[Tensor], rows: Sequence[Row]) -> bytes:
    """PNG: each picture beside every point's reconstruction of it."""
    titles = ["picture", *(f"f{row['factor']} c{row['channels']} {row['psnr_db']} dB" for row in rows)]
    return tensor_grid(columns, titles)
