"""An S3 object as a seekable stream: one request from where it is read, and a new one after a jump or a break."""

from __future__ import annotations

import io
import os
import time
from typing import TYPE_CHECKING, Any

from infra.errors import BackdropError
from infra.s3 import client, explained, split_uri

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_TRIES = 5
_NEAR = 1 << 20  # a jump forward by less is read and thrown away: about what a new request's round trip costs


class S3File(io.RawIOBase):
    """The bytes of `s3://bucket/key`; `size` and `etag` as they were when it was opened.

    A connection that breaks is opened again where it broke. Raises ObjectMissing, BackdropError (denied, or another
    object took its place while it was read) and ServiceError.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._bucket, self._key = split_uri(uri)
        self._body: Any = None
        self._at = 0  # where the next read begins
        self._body_at = 0  # where the open connection is
        with explained(uri):
            head = client().head_object(Bucket=self._bucket, Key=self._key)
        self.size: int = head["ContentLength"]
        self.etag: str = head["ETag"].strip('"')

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self.size - self._at)
        if wanted <= 0:
            return 0
        with explained(self.uri):
            chunk = self._read(wanted)
        view[: len(chunk)] = chunk
        self._at = self._body_at = self._at + len(chunk)
        return len(chunk)

    def _read(self, wanted: int) -> bytes:
        from botocore.exceptions import BotoCoreError

        for attempt in range(1, _TRIES + 1):
            try:
                self._aim()
                chunk: bytes = self._body.read(wanted)
                if chunk:
                    return chunk
                self._hang_up()
            except BotoCoreError:
                self._hang_up()
                if attempt == _TRIES:
                    raise
            time.sleep(0.1 * 2**attempt)
        raise BackdropError(f"{self.uri} ends at byte {self._at} of {self.size}", "check the object and the server")

    def _aim(self) -> None:
        """Has a connection open whose next byte is the one at `self._at`."""
        ahead = self._at - self._body_at
        if self._body is not None and 0 < ahead <= _NEAR:
            self._body_at += len(self._body.read(ahead))
        if self._body is None or self._body_at != self._at:
            self._hang_up()
            # IfMatch: bytes of two versions of an object must not be mixed.
            self._body = client().get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={self._at}-", IfMatch=self.etag
            )["Body"]
            self._body_at = self._at

    def _hang_up(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def close(self) -> None:
        self._hang_up()
        super().close()
