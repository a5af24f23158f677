"""The one error that a picture can raise."""

from __future__ import annotations

from infra.errors import BackdropError


class BadImage(BackdropError):
    """Bytes that are no usable picture. `reason` is one of REASONS, `detail` says what was found, with its numbers."""

    REASONS = (
        "empty",  # no bytes at all
        "not an image",  # no magic bytes of a picture
        "unsupported",  # a picture, of a kind that is not read here
        "truncated",  # the end is missing
        "corrupt",  # damaged, or not what its header says
        "too many pixels",  # over the limit on pixels, or more than the memory holds
        "metadata limit",  # text, profile or segments beyond what any honest file carries
        "scan limit",  # a JPEG with more scans than any encoder writes
        "blank",  # nothing to see: fully transparent, or two tones only
    )

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}", "replace the file or leave it out")
        self.reason = reason
        self.detail = detail
