"""Near duplicates in two steps: candidates by perceptual hash, decision by looking at the pixels.

No hash threshold is right by itself: two flavours of one packshot lie 6 bits apart, a true 4 % crop 10 to 12. So the
hash only proposes. Two small thumbnails are then aligned by an affine transform (a crop, a resize), matched in gain
and offset (an exposure), and called the same picture when no patch of what is left differs by more than noise: an
object that moved, a shadow on the other side or another colour leave a patch, a re-encoding does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

VERSION = "2"
THUMB = 48  # pixels per side of the thumbnail that decides
_SKETCH = 12
_SKETCH_LIMIT = 8.0  # grey levels; only saves time, the aligned residual decides
_MAX_OFFSET = 50.0  # grey levels between the means: more is another exposure, not a touched-up copy
_GAIN = (0.7, 1.4)
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
# What a crop or a resize does to a picture: one scale, hardly any skew, nothing from outside (in thumbnail pixels).
_MAX_SCALE, _MAX_SKEW, _MAX_OUTSIDE = 0.1, 0.03, 0.8
# Measured on 2,000 rendered copies and on all pairs of four times 6,000 rendered scenes: 98 % of the copies stay
# within these, the nearest look-alike misses them by a third. Flat pictures differ by noise alone.
_CONTRAST_SHARE, _NOISE = 0.42, 6.0
_HOPELESS, _APART = 60.0, 255.0


@dataclass(frozen=True)
class Match:
    """Why a picture is a copy: the kept one's id, the hash distance in bits and the residual in grey levels."""

    of: str
    distance: int
    residual: float


def phash(image: np.ndarray) -> int:
    """A 64-bit perceptual hash of uint8 (H, W, 3), unsigned.

    Signs of the 8 × 8 lowest DCT coefficients (without the mean) against their median (Zauner 2010).
    """
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()[1:]
    bits = np.concatenate([low > float(np.median(low.astype(np.float64))), [False]])
    return int(np.packbits(bits).view(">u8")[0])


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 (THUMB, THUMB, 3) of the whole picture, its aspect ratio given up."""
    smaller = min(image.shape[:2]) < THUMB
    return cv2.resize(image, (THUMB, THUMB), interpolation=cv2.INTER_LINEAR if smaller else cv2.INTER_AREA)


def residual(first: np.ndarray, second: np.ndarray) -> float:
    """Largest difference, in grey levels over 3 × 3 patches, between two thumbnails after alignment and exposure.

    Both are aligned to each other and the worse side counts: a copy is a copy in both directions, while an object
    that moved a little over a plain background can be warped onto its like in one of them.
    """
    one_way = _one_way(first, second)
    return one_way if one_way == _APART else max(one_way, _one_way(second, first))


def allowed(first: np.ndarray, second: np.ndarray, max_residual: float) -> float:
    """The residual up to which two thumbnails are one picture: a share of their contrast, at most `max_residual`.

    In a picture of faint tones another object is a faint difference.
    """
    contrast = min(float(first.std()), float(second.std()))
    return min(max_residual, max(_NOISE, _CONTRAST_SHARE * contrast))


def _one_way(first: np.ndarray, second: np.ndarray) -> float:
    """The residual with `second` warped onto `first`; 255 where it is large even so."""
    left = _difference(first, second, np.eye(2, 3, dtype=np.float32))
    warp = _alignment(first, second)
    if warp is not None:
        left = min(left, _difference(first, second, warp))
    return left if left < _HOPELESS else _APART


def _alignment(first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """The affine map from places in `first` to places in `second`, where it is one that a crop or a resize makes."""
    warp = np.eye(2, 3, dtype=np.float32)
    whole = np.full((THUMB, THUMB), 255, np.uint8)
    # Without texture there is nothing to align, and ECC (Evangelidis & Psarakis 2008) says so.
    try:
        _, found = cv2.findTransformECC(_grey(first), _grey(second), warp, cv2.MOTION_AFFINE, _STOP, whole, 3)
    except cv2.error:
        return None
    linear, shift = np.asarray(found, np.float64)[:, :2], np.asarray(found, np.float64)[:, 2]
    across, down = np.hypot(*linear[:, 0]), np.hypot(*linear[:, 1])
    if max(abs(across - 1), abs(down - 1)) > _MAX_SCALE or abs(across - down) > _MAX_SKEW:
        return None
    if abs(linear[0, 1]) + abs(linear[1, 0]) > _MAX_SKEW:
        return None
    # A crop shows a part of the other picture: the corners of one lie inside the other.
    corners = np.array([(0, 0), (THUMB - 1, 0), (0, THUMB - 1), (THUMB - 1, THUMB - 1)], np.float64)
    there = _outside(corners @ linear.T + shift)
    back = _outside((corners - shift) @ np.linalg.inv(linear).T)
    return np.asarray(found, np.float32) if min(there, back) <= _MAX_OUTSIDE else None


def _outside(places: np.ndarray) -> float:
    """How many pixels the outermost of these places lies outside a thumbnail."""
    return float(max(0.0, -places.min(), places.max() - (THUMB - 1)))


def _difference(first: np.ndarray, second: np.ndarray, warp: np.ndarray) -> float:
    moved = cv2.warpAffine(
        second.astype(np.float32),
        warp,
        (THUMB, THUMB),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y = moved - moved.mean(), first.astype(np.float32) - np.float32(first.mean())
    gain = float(np.clip((x * y).mean() / max(float((x * x).mean()), 1e-6), *_GAIN))
    return float(np.abs(cv2.blur(y - gain * x, (3, 3))[2:-2, 2:-2]).max())


class Sketches:
    """Very small copies of many thumbnails, compared all at once: nearly every look-alike ends here."""

    def __init__(self, thumbs: Sequence[np.ndarray]) -> None:
        size = (_SKETCH, _SKETCH)
        flat = [cv2.resize(thumb, size, interpolation=cv2.INTER_AREA).ravel() for thumb in thumbs]
        self.pixels = np.array(flat, np.float32).reshape(len(flat), _SKETCH * _SKETCH * 3)
        self.means = self.pixels.mean(axis=1)
        self.pixels -= self.means[:, None]
        self.energies = np.maximum((self.pixels**2).mean(axis=1), 1e-6)

    def alike(self, one: Sketches, at: int, others: np.ndarray) -> np.ndarray:
        """Which of the rows `others` of this set may show what row `at` of the set `one` shows; bool like `others`.

        One gain and one offset for all channels are forgiven: an exposure, not a hue.
        """
        x, y = self.pixels[others], one.pixels[at]
        gains = np.clip((x @ y) / x.shape[1] / self.energies[others], *_GAIN)
        difference = np.abs(y - gains[:, None] * x).mean(axis=1)
        return (difference <= _SKETCH_LIMIT) & (np.abs(self.means[others] - one.means[at]) <= _MAX_OFFSET)


def _grey(thumb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY)


class Known:
    """Pictures already kept elsewhere: ids, hashes, and a way to look at one (None where it cannot be had)."""

    def __init__(self, ids: Sequence[str], hashes: Sequence[int], look: Callable[[str], np.ndarray | None]) -> None:
        self.ids = list(ids)
        self.hashes = np.array(hashes, dtype=np.uint64)
        self._look = look
        self._seen: dict[str, np.ndarray | None] = {}

    def thumb(self, index: int) -> np.ndarray | None:
        """The thumbnail of the picture at `index`."""
        image_id = self.ids[index]
        if image_id not in self._seen:
            self._seen[image_id] = self._look(image_id)
        return self._seen[image_id]


def find_copies(
    ids: Sequence[str],
    hashes: Sequence[int],
    thumbs: Sequence[np.ndarray],
    known: Known,
    *,
    max_distance: int,
    max_residual: float,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Match]:
    """Which of `ids` (in order of precedence) repeat an earlier one or a known one; the first of a group stays.

    A candidate that cannot be looked at is no copy: a picture is dropped for what was seen, never for a hash.
    """
    own = np.array(hashes, dtype=np.uint64)
    sketches = Sketches(thumbs)
    kept = np.ones(len(ids), bool)
    copies: dict[str, Match] = {}

    def first_match(candidates: Iterable[tuple[str, int, np.ndarray]], index: int) -> Match | None:
        for image_id, distance, thumb in candidates:
            left = residual(thumbs[index], thumb)
            if left <= allowed(thumbs[index], thumb, max_residual):
                return Match(image_id, distance, round(left, 2))
        return None

    def among_known(index: int) -> Iterator[tuple[str, int, np.ndarray]]:
        for place, distance in _near(known.hashes, own[index], max_distance):
            thumb = known.thumb(place)
            if thumb is not None and Sketches([thumb]).alike(sketches, index, np.array([0]))[0]:
                yield known.ids[place], distance, thumb

    def among_own(index: int) -> Iterator[tuple[str, int, np.ndarray]]:
        near = [(place, distance) for place, distance in _near(own[:index], own[index], max_distance) if kept[place]]
        if near:
            alike = sketches.alike(sketches, index, np.array([place for place, _ in near]))
            yield from ((ids[p], d, thumbs[p]) for (p, d), same in zip(near, alike, strict=True) if same)

    for index, image_id in enumerate(ids):
        match = first_match(among_known(index), index) or first_match(among_own(index), index)
        if match is not None:
            copies[image_id] = match
            kept[index] = False
        if progress and index % 256 == 0:
            progress(index, len(ids))
    return copies


def _near(hashes: np.ndarray, own: np.uint64, max_distance: int) -> list[tuple[int, int]]:
    """(row, distance in bits) of the hashes within `max_distance`, the nearest first."""
    distances = np.bitwise_count(hashes ^ own)
    near = np.flatnonzero(distances <= max_distance)
    near = near[np.argsort(distances[near], kind="stable")]
    return [(int(row), int(distances[row])) for row in near]
