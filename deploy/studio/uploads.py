"""A request's form, read while it is counted: what is too large is refused before it is all there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from deploy.studio.fields import FILES
from deploy.studio.limits import Limits
from deploy.studio.refusal import HungUp, Refusal

_FIELD_BYTES = 64_000  # a prompt that is too long is refused in words, up to here


@dataclass(frozen=True)
class Form:
    """Fields, and the files that were given: on disk from a megabyte on, until somebody reads them."""

    fields: dict[str, str]
    files: dict[str, UploadFile]

    def read(self, name: str) -> bytes | None:
        """A file's bytes, once; None where it was not given. It is gone afterwards."""
        found = self.files.get(name)
        if found is None:
            return None
        with found.file as file:
            return file.read()


async def read_form(request: Request, limits: Limits) -> Form:
    """Raises Refusal (400, 408, 413, 415, 422), and HungUp where the client went away."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(415, "form", "The request is no form.", "Send multipart/form-data with a field 'photograph'.")
    claimed = request.headers.get("content-length", "")
    if claimed.isdigit() and int(claimed) > limits.upload_bytes:
        raise _too_large(limits)
    counted = Request(request.scope, _Counted(request.receive, limits))
    try:
        async with asyncio.timeout(limits.upload_seconds):
            return await _parsed(counted)
    except TimeoutError:
        raise Refusal(
            408,
            "slow",
            f"The upload took more than {limits.upload_seconds:.0f} s.",
            "Send it again, or a smaller file.",
        ) from None
    except ClientDisconnect:
        raise HungUp from None
    except ValueError:  # UnicodeError: the form names a charset of its own, which cannot read it
        raise Refusal(400, "form", "The form's characters cannot be read.", "Send it as UTF-8.") from None
    except HTTPException as error:  # how Starlette wraps what the parser finds
        if "maximum size" in str(error.detail):
            raise Refusal(413, "form", "A field of the form is too large.", "Say it in fewer words.") from None
        raise Refusal(400, "form", f"The form cannot be read: {error.detail}", "Send multipart/form-data.") from None


async def _parsed(request: Request) -> Form:
    fields: dict[str, str] = {}
    files: dict[str, UploadFile] = {}
    form = await request.form(max_files=2, max_fields=16, max_part_size=_FIELD_BYTES)
    for name, value in form.multi_items():
        if not _is_text(name) or (isinstance(value, str) and not _is_text(value)):
            raise Refusal(422, "field", "The form has characters that are none.", "Send it as UTF-8.")
        if name in fields or name in files:
            raise Refusal(422, "field", f"The field '{name[:40]}' is given twice.", "Give it once.")
        if isinstance(value, UploadFile):
            if name not in FILES:
                raise Refusal(422, "field", f"There is no file field '{name[:40]}'.", "Give photograph and mask.")
            files[name] = value
        elif name in FILES:
            raise Refusal(
                422, "field", f"The field '{name}' is no file.", f"With curl: -F {name}=@picture.png, with the @."
            )
        else:
            fields[name] = value
    return Form(fields, files)


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8; halves of a pair, which some charsets let through, cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


class _Counted:
    """`receive` that refuses a body beyond the limit."""

    def __init__(self, receive: object, limits: Limits) -> None:
        self._receive, self._limits, self._bytes = receive, limits, 0

    async def __call__(self) -> Message:
        message: Message = await self._receive()  # type: ignore[operator]
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limits.upload_bytes:
            raise _too_large(self._limits)
        return message


def _too_large(limits: Limits) -> Refusal:
    return Refusal(
        413,
        "too many bytes",
        f"The upload has more than {limits.upload_bytes / 1e6:.0f} MB.",
        "Scale the photograph down, or save it as JPEG or WebP.",
    )
