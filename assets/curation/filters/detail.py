"""Drops pictures without the detail their size promises: blurred, enlarged, crushed by compression, or plain noise.

Everything is measured on luma with a longer side of 256 pixels, so that one number means the same for every size,
except what compression and pixel repetition leave behind, which only the full grid shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from assets.curation.filters.base import DROP, KEEP, WORK, Judgement, Picture, reduced
from assets.curation.filters.settings import DetailSection

_WINDOW = 17  # pixels of the small plane: wider edges than this are shading
_CONTRAST = (16, 40)  # grey levels of an edge worth measuring: at least, and enough
_SHARPEST = 2  # per cent of the measured places; shallow focus leaves most of a good photograph blurred
_RARE = 0.002  # of the places: too few edges along an axis to say anything about it
_BLOCK = 8
_ROWS = 64
_ALONE = 4.0  # times larger than both neighbours: a step that stands alone


_REASONS = {
    "edge_width": "blurred: the sharpest edges are {:.1f} pixels wide in a picture of 256",
    "octave_loss": "enlarged: the finest octave is {:.1f} times weaker than the next, it was never recorded",
    "blockiness": "compression: steps between the 8 × 8 blocks are {:.1f} times those inside",
    "repeats": "enlarged: pixels repeat regularly along {:.0%} of the picture",
    "disorder": "noise: {:.0%} of a pixel's contrast has nothing to do with its neighbours",
}


@dataclass(frozen=True)
class DetailFilter:
    """Score: the worst of measure / threshold; 1 is where it starts to drop."""

    section: DetailSection
    name: str = "detail"
    version: str = "2"

    def judge(self, picture: Picture) -> Judgement:
        section = self.section
        bits = 8 * picture.bytes / (picture.pixels.size / 3)
        starved = picture.format == "jpeg" and 0 < bits < section.starved_bits
        limits = {
            "edge_width": section.max_edge_width,
            "octave_loss": section.max_octave_loss,
            "blockiness": section.max_blockiness_starved if starved else section.max_blockiness,
            "repeats": section.max_repeats,
            "disorder": section.max_disorder,
        }
        measures: dict[str, float] = {name: self._measure(name, picture) for name in section.measures}
        worst = max(measures, key=lambda name: measures[name] / limits[name])
        score = round(measures[worst] / limits[worst], 4)
        detail = {name: round(value, 3) for name, value in measures.items()}
        if score < 1:
            return Judgement(self.name, self.version, KEEP, score, "", detail)
        return Judgement(self.name, self.version, DROP, score, _REASONS[worst].format(measures[worst]), detail)

    def _measure(self, name: str, picture: Picture) -> float:
        match name:
            case "edge_width":
                return self._edge_width(picture)
            case "octave_loss":
                return octave_loss(picture.small)
            case "blockiness":
                return min(map(blockiness, picture.grid_steps))
            case "repeats":
                return min(map(repeats, picture.grid_steps))
            case _:
                return disorder(picture.small)

    def _edge_width(self, picture: Picture) -> float:
        """Of luma; where that looks blurred, of the sharpest colour: some edges are there in colour only."""
        width = edge_width(picture.small)
        if width < self.section.max_edge_width:
            return width
        colour = reduced(picture.pixels, WORK)
        planes = [picture.small, *(np.ascontiguousarray(colour[:, :, channel]) for channel in range(3))]
        return edge_width(*planes)


def edge_width(*planes: np.ndarray) -> float:
    """Pixels that the sharpest edges of planes (h, w) take from one side to the other; 0 where there are none.

    Height over slope: the range of a window over its largest step. A step blurred by a Gaussian of σ has σ √(2π).
    Taken along rows and columns, the wider of the two: a camera that moved leaves edges along its way sharp.
    """
    turned = [cv2.transpose(plane) for plane in planes]
    return max(min((w for w in map(_edge_width, axis) if w), default=0.0) for axis in (planes, turned))


def _edge_width(plane: np.ndarray) -> float:
    if plane.shape[1] < 2:
        return 0.0
    plane = plane[:: max(1, len(plane) // _ROWS)]  # rows are looked at one by one, and their neighbours say the same
    window = np.ones((1, _WINDOW), np.uint8)
    height = cv2.subtract(cv2.dilate(plane, window), cv2.erode(plane, window))[:, 1:]
    step = cv2.absdiff(plane[:, 1:], plane[:, :-1])
    enough = min(max(int(height.max(initial=0)) // 2, _CONTRAST[0]), _CONTRAST[1])
    # Where the step is the window's largest, the edge lies in its middle and the window holds all of it.
    places = np.flatnonzero((height >= enough) & (step == cv2.dilate(step, window)))
    if len(places) < max(1.0, _RARE * step.size):
        return 0.0
    widths = height.ravel()[places] / np.maximum(step.ravel()[places], 1).astype(np.float32)
    at = len(places) * _SHARPEST // 100
    return float(np.partition(widths, at)[at])


def octave_loss(plane: np.ndarray) -> float:
    """How many times weaker the finest octave of a luma plane is than the next; about 1 in a photograph.

    Natural scenes have about the same contrast in every octave (D. J. Field, JOSA A 4, 1987), so a missing one was
    never recorded. 0 for planes too small or too smooth to say.
    """
    if min(plane.shape) < 32:
        return 0.0
    finest, half = _octave(plane)
    coarser, _ = _octave(half)
    return coarser / finest if coarser > 1.0 and finest > 0 else 0.0


def _octave(plane: np.ndarray) -> tuple[float, np.ndarray]:
    """Root mean square of what is lost at half the size, and the plane at half the size."""
    height, width = plane.shape
    half = cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    again = cv2.resize(half, (width, height), interpolation=cv2.INTER_CUBIC)
    return float(cv2.norm(plane, again, cv2.NORM_L2) / np.sqrt(plane.size)), half


def blockiness(steps: np.ndarray) -> float:
    """The mean step across the borders of the JPEG grid over the mean step inside its blocks.

    About 1 in a photograph; where the quantiser leaves little but a block's mean, the steps are left between the
    blocks. 0 for fewer than 16 blocks: then one straight edge that happens to lie on the grid would decide.
    """
    blocks = len(steps) // _BLOCK
    if blocks < 16:
        return 0.0
    by_place = steps[: blocks * _BLOCK].reshape(blocks, _BLOCK).mean(axis=0)
    inside = float(by_place[:-1].mean())
    return float(by_place[-1]) / max(inside, 0.25)  # a quarter of a level: below it the picture is plain


def repeats(steps: np.ndarray) -> float:
    """Share of an axis along which runs of repeated pixels follow each other regularly.

    A scaler that repeats pixels leaves steps that stand alone, with still columns on both sides.
    """
    beside = np.maximum(steps[:-2], steps[2:])
    places = np.flatnonzero(steps[1:-1] > np.maximum(_ALONE * beside, 0.5))
    if len(places) < 9:
        return 0.0
    gaps = np.diff(places)
    usual = int(np.median(gaps))
    # A factor that is no whole number alternates between two lengths.
    regular = np.abs(gaps - usual) <= 1
    return float(gaps[regular].sum() / len(steps)) if usual >= 3 else 0.0


def disorder(plane: np.ndarray) -> float:
    """1 − correlation of neighbouring pixels, at the plane's size and at 64 pixels, the smaller: 1 in white noise of
    any grain, under 0.4 even in gravel; 0 for a plain picture."""
    return min(_disorder(plane), _disorder(reduced(plane, 64)))


def _disorder(plane: np.ndarray) -> float:
    _, deviation = cv2.meanStdDev(plane)
    spread = 2 * float(deviation[0, 0]) ** 2
    if min(plane.shape) < 2 or spread < 2:
        return 0.0
    across = cv2.norm(plane[:, 1:], plane[:, :-1], cv2.NORM_L2SQR) / plane[:, 1:].size
    down = cv2.norm(plane[1:], plane[:-1], cv2.NORM_L2SQR) / plane[1:].size
    return float(min(across, down) / spread)
