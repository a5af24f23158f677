"""What the studio answers when it does not do what was asked: a status, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from infra.bad_image import BadImage


class Refusal(Exception):
    """An answer that is no picture. `cause` is its label in the metrics: one of few words."""

    def __init__(
        self, status: int, cause: str, what: str, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what)
        self.status, self.cause, self.what, self.remedy = status, cause, what, remedy
        self.headers = dict(headers or {})

    def body(self) -> dict[str, str]:
        """As JSON says it."""
        return {"error": self.what, "remedy": self.remedy, "cause": self.cause}


class HungUp(Exception):
    """The client is gone: there is nobody to answer."""


_STATUS = {"not an image": 415, "unsupported": 415, "too many pixels": 413}


def bad_picture(error: BadImage, name: str, pixels: int) -> Refusal:
    """The refusal of an uploaded file that `infra.images` did not take."""
    status = _STATUS.get(error.reason, 422)
    if status == 413:
        remedy = f"Scale it down to {pixels / 1e6:.0f} megapixels or fewer."
    elif status == 415:
        remedy = "Give a JPEG, PNG, WebP, GIF, TIFF or BMP file."
    else:
        remedy = "Save it again in another program, or give another file."
    return Refusal(status, error.reason, f"The {name} cannot be used: {error.reason} ({error.detail}).", remedy)
