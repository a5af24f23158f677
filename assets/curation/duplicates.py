"""Near duplicates in two steps: candidates by perceptual hash, decision by looking at the pixels.

No hash threshold is right by itself: two flavours of one packshot lie 6 bits apart, a true 4 % crop 10 to 12. So the
hash only proposes, and a very small copy of each picture (a sketch, kept in the catalog) turns down nearly all that it
proposes. What is left is looked at: two small thumbnails are aligned by an affine transform (a crop, a resize), matched
in gain and offset (an exposure), and called the same picture when no patch of what is left differs by more than noise:
an object that moved, a shadow on the other side or another colour leave a patch, a re-encoding does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

VERSION = "6"
THUMB = 48  # pixels per side of the smallest thumbnail that decides
_FINEST = 3  # times that, where the picture has them
_SMALL = 96  # pixels of the shorter side that are enough for a hash and a thumbnail
_SKETCH = 12
# Only saves time, the aligned residual decides: grey levels, and of the contrast; 95 % of the crops of 4 to 10 % of 111
# photographs stay within it.
_SKETCH_LIMIT, _SKETCH_SHARE = 8.0, 0.41
_MAX_OFFSET = 50.0  # grey levels between the means: more is another exposure, not a touched-up copy
_GAIN = (0.7, 1.4)
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
# What a crop or a resize does to a picture: one scale, hardly any skew, nothing from outside (in thumbnail pixels).
_MAX_SCALE, _MAX_SKEW, _MAX_OUTSIDE = 0.1, 0.03, 0.8
# Measured on 2,000 rendered copies and on all pairs of four times 6,000 rendered scenes: 98 % of the copies stay
# within these, the nearest look-alike misses them by a third. Flat pictures differ by noise alone.
_CONTRAST_SHARE, _NOISE = 0.42, 6.0
_HOPELESS, _APART = 60.0, 255.0
_COARSE = 3.0  # times what is allowed: what alignment leaves at 48 pixels where more of them leave nothing


def fingerprint(image: np.ndarray) -> tuple[int, bytes]:
    """(perceptual hash, sketch) of uint8 (H, W, 3); the same for a picture that was halved already."""
    small = halved(image)
    return phash(small), sketch(small)


def halved(image: np.ndarray) -> np.ndarray:
    """The picture halved until its shorter side is below twice 96 pixels: exact averages of 2 × 2, which are cheap."""
    while min(image.shape[:2]) >= 2 * _SMALL:
        height, width = (side // 2 for side in image.shape[:2])
        image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return image


def phash(image: np.ndarray) -> int:
    """A 64-bit perceptual hash of uint8 (H, W, 3), unsigned.

    Signs of the 8 × 8 lowest DCT coefficients (without the mean) against their median (Zauner 2010).
    """
    grey = cv2.cvtColor(halved(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()[1:]
    bits = np.zeros(64, bool)
    bits[:63] = low > np.partition(low, 31)[31]  # the median of 63
    return int(np.packbits(bits).view(">u8")[0])


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 (S, S, 3) of the whole picture, its aspect ratio given up: S is 48, 96 or 144, as the picture allows."""
    return _squared(halved(image))


def _squared(image: np.ndarray) -> np.ndarray:
    side = THUMB * min(_FINEST, max(1, min(image.shape[:2]) // THUMB))
    smaller = min(image.shape[:2]) < side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR if smaller else cv2.INTER_AREA)


def residual(first: np.ndarray, second: np.ndarray, enough: float = 0.0) -> float:
    """Largest difference, in grey levels over patches of a 16th of a side, after alignment and exposure.

    Both thumbnails are aligned to each other and the worse side counts: a copy is a copy in both directions, while an
    object that moved a little over a plain background can be warped onto its like in one of them. Of unlike sizes the
    larger is shrunk; at the larger sizes a crop leaves less at sharp edges. Nothing is aligned further once the
    difference is at most `enough`.
    """
    side = min(len(first), len(second))
    first, second = (_shrunk(thumb, side) for thumb in (first, second))
    one_way = _one_way(first, second, enough)
    return one_way if one_way == _APART else max(one_way, _one_way(second, first, enough))


def _shrunk(thumb: np.ndarray, side: int) -> np.ndarray:
    return thumb if len(thumb) == side else cv2.resize(thumb, (side, side), interpolation=cv2.INTER_AREA)


def allowed(first: np.ndarray, second: np.ndarray, max_residual: float) -> float:
    """The residual up to which two thumbnails are one picture: a share of their contrast, at most `max_residual`.

    In a picture of faint tones another object is a faint difference.
    """
    contrast = min(float(first.std()), float(second.std()))
    return min(max_residual, max(_NOISE, _CONTRAST_SHARE * contrast))


def _one_way(first: np.ndarray, second: np.ndarray, enough: float) -> float:
    """The residual with `second` warped onto `first`; 255 where it is large even so.

    Coarse first: most pairs that are not copies end there.
    """
    side, small = len(first), (_shrunk(first, THUMB), _shrunk(second, THUMB))
    fine = side > THUMB
    left = _difference(*small, np.eye(2, 3, dtype=np.float32))
    warp = None if left <= enough and not fine else _alignment(*small, np.eye(2, 3, dtype=np.float32), not fine)
    if warp is not None:
        left = min(left, _difference(*small, warp))
    if fine and left <= _COARSE * max(enough, _NOISE):
        warp = np.eye(2, 3, dtype=np.float32) if warp is None else warp
        warp[:, 2] *= side / THUMB
        left = min(_difference(first, second, np.eye(2, 3, dtype=np.float32)), _difference(first, second, warp))
        better = None if left <= enough else _alignment(first, second, warp, True)
        if better is not None:
            left = min(left, _difference(first, second, better))
    return left if left < _HOPELESS else _APART


def _alignment(first: np.ndarray, second: np.ndarray, start: np.ndarray, last: bool) -> np.ndarray | None:
    """The affine map from places in `first` to places in `second`, where it is one that a crop or a resize makes.

    Searched from `start` on; judged less exactly where it is not the `last` search.
    """
    one, other, side = _grey(first), _grey(second), len(first)
    # Without texture there is nothing to align, and ECC (Evangelidis & Psarakis 2008) says so.
    try:
        whole = np.full((side, side), 255, np.uint8)
        _, found = cv2.findTransformECC(one, other, start.copy(), cv2.MOTION_AFFINE, _STOP, whole, 3)
    except cv2.error:
        return None
    warp = np.asarray(found, np.float32)
    linear, shift = warp[:, :2].astype(np.float64), warp[:, 2].astype(np.float64)
    across, down = np.hypot(*linear[:, 0]), np.hypot(*linear[:, 1])
    if max(abs(across - 1), abs(down - 1)) > _MAX_SCALE or abs(across - down) > _MAX_SKEW:
        return None
    if abs(linear[0, 1]) + abs(linear[1, 0]) > _MAX_SKEW:
        return None
    # A crop shows a part of the other picture: the corners of one lie inside the other.
    end = side - 1
    corners = np.array([(0, 0), (end, 0), (0, end), (end, end)], np.float64)
    there = _outside(corners @ linear.T + shift, end)
    back = _outside((corners - shift) @ np.linalg.inv(linear).T, end)
    tolerance = _MAX_OUTSIDE * side / THUMB
    return warp if min(there, back) <= (tolerance if last else 2 * tolerance) else None


def _outside(places: np.ndarray, end: int) -> float:
    """How many pixels the outermost of these places lies outside a thumbnail of pixels 0 … `end`."""
    return float(max(0.0, -places.min(), places.max() - end))


def _difference(first: np.ndarray, second: np.ndarray, warp: np.ndarray) -> float:
    """The residual where `second`, warped, shows something: of a crop's surroundings it knows nothing."""
    side, patch = len(first), 3 * (len(first) // THUMB)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(second.astype(np.float32), warp, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full((side, side), 255, np.uint8), warp, (side, side), flags=flags)
    inside[:1], inside[-1:], inside[:, :1], inside[:, -1:] = 0, 0, 0, 0
    seen = cv2.erode(inside, np.ones((patch, patch), np.uint8), borderValue=0) == 255
    if not seen.any():
        return _APART
    x, y = moved[seen], first[seen].astype(np.float32)
    offsets = x.mean(), y.mean()
    x, y = x - offsets[0], y - offsets[1]
    gain = float(np.clip((x * y).mean() / max(float((x * x).mean()), 1e-6), *_GAIN))
    left = cv2.blur(first.astype(np.float32) - offsets[1] - gain * (moved - offsets[0]), (patch, patch))
    return float(np.abs(left[seen]).max())


def sketch(image: np.ndarray) -> bytes:
    """A very small copy of a picture, its aspect ratio given up: uint8 (12, 12, 3), 432 bytes."""
    return cv2.resize(halved(image), (_SKETCH, _SKETCH), interpolation=cv2.INTER_AREA).tobytes()


def alike(first: Sequence[bytes], second: Sequence[bytes]) -> np.ndarray:
    """Which pairs of sketches may show one picture; bool (pairs,).

    One gain and one offset for all channels are forgiven: an exposure, not a hue.
    """
    y, x = (
        np.frombuffer(b"".join(side), np.uint8).reshape(len(side), -1).astype(np.float32) for side in (first, second)
    )
    offsets = np.abs(x.mean(axis=1) - y.mean(axis=1))
    x -= x.mean(axis=1, keepdims=True)
    y -= y.mean(axis=1, keepdims=True)
    gains = np.clip((x * y).mean(axis=1) / np.maximum((x * x).mean(axis=1), 1e-6), *_GAIN)
    difference = np.abs(y - gains[:, None] * x).mean(axis=1)
    contrast = np.minimum(x.std(axis=1), y.std(axis=1))
    return (difference <= np.maximum(_SKETCH_LIMIT, _SKETCH_SHARE * contrast)) & (offsets <= _MAX_OFFSET)


def _grey(thumb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY)


class HashIndex:
    """64-bit hashes that can be asked for all within a distance. Exact: every hash is compared, at 2 · 10⁹ a second."""

    def __init__(self, hashes: np.ndarray) -> None:
        import faiss

        self._index = faiss.IndexBinaryFlat(64)
        self.add(hashes)

    def add(self, hashes: np.ndarray) -> None:
        """More hashes, uint64 (n,), numbered on from those that are there."""
        if len(hashes):
            self._index.add(_as_bytes(hashes))

    def near(self, queries: np.ndarray, max_distance: int, block: int = 1024) -> Iterator[tuple[np.ndarray, ...]]:
        """(query, hash, distance in bits) of every pair within `max_distance`, for a block of queries at a time.

        Arrays int64 (pairs,), by query, then distance, then hash.
        """
        for start in range(0, len(queries), block):
            part = _as_bytes(queries[start : start + block])
            limits, distances, found = self._index.range_search(part, max_distance + 1)
            rows = np.repeat(np.arange(start, start + len(part)), np.diff(limits.astype(np.int64)))
            distances = distances.astype(np.int64)
            order = np.lexsort((found, distances, rows))
            yield rows[order], found[order], distances[order]


def _as_bytes(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes, dtype=np.uint64).view(np.uint8).reshape(-1, 8)


def components(size: int, first: np.ndarray, second: np.ndarray) -> list[list[int]]:
    """The groups of 0 … size - 1 that the pairs (first, second) connect, those of one left out; sorted inside."""
    parent = list(range(size))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        one, other = sorted((root(a), root(b)))
        parent[other] = one
    groups: dict[int, list[int]] = {}
    for item in sorted({*first.tolist(), *second.tolist()}):
        groups.setdefault(root(item), []).append(item)
    return list(groups.values())
