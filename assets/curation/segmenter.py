"""Product masks for pictures that came without one: the embedded GrabCut, or a saliency model in an ONNX file.

Both say how far to trust a mask on one scale, so that one threshold serves both: the signs of a well-cut product of
:mod:`evaluation.segmentation`. Where GrabCut asks whether two cuts agree, a saliency map is asked whether its mask
stays the same when the threshold moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes
from infra.object_store import path_of, read_uri

if TYPE_CHECKING:
    import onnxruntime

# A logit of one on either side of the threshold: the stability score of Segment Anything (Kirillov et al. 2023).
_LOOSE, _STRICT = 0.27, 0.73
_SIDE = 128  # pixels of the longer side at which GrabCut's mask is judged; the signs are measured in its pixels
_VERSION = "1"


class SegmentSection(BaseModel):
    """Which segmenter cuts the masks. The usual saliency networks (U²-Net, IS-Net, BiRefNet) fit as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="an ONNX file (path, file:// or s3://); None: the embedded GrabCut")
    size: int = Field(320, ge=16, description="pixels per side of the model's input, where the file leaves it open")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="taken from RGB in [0, 1]")
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (0.229, 0.224, 0.225), description="divides what is left"
    )
    output: Literal["probability", "logits"] = Field("probability", description="what the model's first output holds")
    threads: int = Field(1, ge=1, description="per worker; there are as many workers as cores")


class Segmenter(Protocol):
    """Finds the product in a picture."""

    name: str
    version: str

    def segment(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        """uint8 (H, W, 3) sRGB → (mask bool (H, W), confidence in [0, 1]). Deterministic."""


def choose_segmenter(section: SegmentSection) -> Segmenter:
    """The segmenter that the settings name. Raises BackdropError when its file cannot be read."""
    return OnnxSegmenter(section.model, section) if section.model else GrabCutSegmenter()


class GrabCutSegmenter:
    """The embedded default."""

    name = "grabcut"

    def __init__(self) -> None:
        from evaluation.segmentation import VERSION

        self.version = VERSION

    def segment(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        from evaluation.segmentation import segment

        return segment(pixels)


class OnnxSegmenter:
    """A saliency network: input float32 (1, 3, S, S), first output (1, 1, S, S) or (1, S, S).

    Its version names the file's bytes and the settings. It may be pickled; each process loads the model at its first
    picture. Raises BackdropError for a file that is missing, and at that first picture for one that is no such network.
    """

    name = "onnx"

    def __init__(self, uri: str, section: SegmentSection | None = None) -> None:
        self._section = section or SegmentSection()
        self._uri = uri
        self._hash = sha256_bytes(read_uri(uri))
        settings = self._section.model_dump(mode="json", exclude={"model", "threads"})
        self.version = f"onnx-{_VERSION}:{sha256_bytes(canonical_json([self._hash, settings]))[:12]}"
        self._session: onnxruntime.InferenceSession | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def segment(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        import cv2

        height, width = pixels.shape[:2]
        saliency = self.saliency(pixels)
        if not np.isfinite(saliency).all():  # the network has no answer for this picture
            return np.zeros((height, width), bool), 0.0
        full = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
        return full >= 0.5, saliency_confidence(pixels, saliency)

    def saliency(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) → float32 (h, w) in [0, 1] at the network's own size."""
        import cv2

        session = self._loaded()
        given = session.get_inputs()[0]
        height, width = (side if isinstance(side, int) else self._section.size for side in given.shape[2:])
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        mean, std = (np.asarray(three, np.float32) for three in (self._section.mean, self._section.std))
        planes = np.ascontiguousarray(((small - mean) / std).transpose(2, 0, 1)[None])  # (1, 3, h, w)
        try:
            found = np.asarray(session.run([session.get_outputs()[0].name], {given.name: planes})[0])
        except Exception as error:  # the binding's exceptions have no common base below Exception
            raise self._wrong(f"does not run: {str(error).splitlines()[0]}") from error
        if found.ndim < 2 or found.size != found.shape[-1] * found.shape[-2]:
            raise self._wrong(f"answers with an array of shape {found.shape}, one map (1, 1, S, S) is wanted")
        found = found.reshape(found.shape[-2:]).astype(np.float32)
        if self._section.output == "logits":
            return 1 / (1 + np.exp(-np.clip(found, -60, 60)))
        if found.min() < -0.01 or found.max() > 1.01:  # interpolation inside a network overshoots by less
            raise self._wrong(
                f"answers with values from {found.min():.2f} to {found.max():.2f}, no probabilities",
                "set output: logits in the segment section, or add the sigmoid to the model",
            )
        return np.clip(found, 0, 1)

    def _loaded(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            data = read_uri(self._uri)
            if sha256_bytes(data) != self._hash:
                raise BackdropError(f"the segmenter's file {self._uri} changed while it was in use", "run again")
            # By its path a model finds the files of weights beside it.
            remote = self._uri.startswith("s3://")
            self._session = self._open(data if remote else str(path_of(self._uri)))
        return self._session

    def _open(self, model: bytes | str) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._section.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise self._wrong(f"cannot be loaded: {str(error).splitlines()[0]}") from error
        inputs = [(entry.type, len(entry.shape), entry.shape[1:2]) for entry in session.get_inputs()]
        if inputs != [("tensor(float)", 4, [3])]:
            shown = ", ".join(f"{entry.type} {entry.shape}" for entry in session.get_inputs())
            raise self._wrong(f"takes {shown}; one float32 input of (1, 3, S, S) is wanted")
        return session

    def _wrong(self, what: str, remedy: str = "") -> BackdropError:
        wanted = "give the segment section a saliency network with a fixed or square input, or leave model unset"
        return BackdropError(f"the segmenter's model {self._uri} {what}", remedy or wanted)


def saliency_confidence(pixels: np.ndarray, saliency: np.ndarray) -> float:
    """How far to trust the mask `saliency` ≥ 0.5 of uint8 (H, W, 3), in [0, 1], on GrabCut's scale. Pure.

    The geometric mean of its six signs: a possible area, apart from the border, solid, of other colours than its
    surroundings, outlined by edges, and stable: the same at a stricter and at a looser threshold.
    """
    import cv2

    from evaluation.segmentation import _confidence

    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(saliency.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    mask = soft >= 0.5
    return min(_confidence(small, mask, soft >= _LOOSE), _confidence(small, mask, soft >= _STRICT))
