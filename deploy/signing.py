"""Ed25519 signatures (RFC 8032): who made a manifest, and whether it is still what was signed.

A key is never a setting, only where it lies: `env:NAME` (an environment variable that a secret fills) or `file:/path`.
Without one the line makes its own below its state folder, readable by its owner alone. Public keys are written as 64
hexadecimal digits.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Collection
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.errors import BackdropError
from infra.files import ASIDE_PREFIX, canonical_json

ALGORITHM = "ed25519"
OWN_KEY = Path("keys") / "signing.pem"
"""The line's own private key, below its state folder."""


class Signer:
    """Signs with one private key. `public` is the key that verifies it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw().hex()

    def sign(self, purpose: str, data: bytes) -> bytes:
        """The signature as JSON, to be kept beside `data`; good for this `purpose` alone."""
        value = self._private.sign(_message(purpose, data)).hex()
        return canonical_json({"algorithm": ALGORITHM, "key": self.public, "signature": value})


def open_signer(reference: str | None, state: Path, setting: str = "BACKDROP_SIGNING_KEY") -> Signer:
    """The signer whose PEM key lies where `reference`, the value of `setting`, says; None: the line's own, made now if
    there is none.

    Raises BackdropError for a reference of another form, a key that is missing or readable by others, or no Ed25519.
    """
    if reference is None:
        return Signer(_parse(_own_key(state / OWN_KEY), str(state / OWN_KEY)))
    scheme, separator, place = reference.partition(":")
    if scheme == "env" and separator:
        pem = os.environ.get(place, "").encode()
        if not pem.strip():
            raise BackdropError(f"The signing key {reference} is not set.", f"Fill {place} from the secret.")
        return Signer(_parse(pem, reference))
    if scheme == "file" and separator:
        return Signer(_parse(_read_private(Path(place)), reference))
    raise BackdropError(
        f"{setting} is no reference to a key.", "Give env:NAME or file:/path; the key itself is no setting."
    )


def verify(purpose: str, data: bytes, signature: bytes, trusted: Collection[str], what: str) -> str:
    """The public key in `trusted` that signed `data` for `purpose`. `what` names the data in messages.

    Raises BackdropError for a signature that is damaged, wrong, or by a key that is not trusted.
    """
    remedy = "Do not load it: find out who changed it, and materialise the asset that makes it again."
    try:
        entry = json.loads(signature)
        algorithm, key, value = entry["algorithm"], str(entry["key"]), bytes.fromhex(entry["signature"])
    except (ValueError, KeyError, TypeError):
        raise BackdropError(f"The signature of {what} is damaged.", remedy) from None
    if algorithm != ALGORITHM or key not in trusted:
        raise BackdropError(
            f"{what} is signed by the key {key[:16]}… ({algorithm}), which is not trusted.",
            "Add its public key to BACKDROP_TRUSTED_KEYS if it is yours; otherwise do not load it.",
        )
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(value, _message(purpose, data))
    except (InvalidSignature, ValueError):
        raise BackdropError(f"The signature of {what} is wrong: it is not what was signed.", remedy) from None
    return key


def trusted_keys(setting: str | None, signer: Signer) -> tuple[str, ...]:
    """Public keys in a comma-separated setting; without one, that of the signer alone. Raises BackdropError."""
    keys = tuple(part.strip().lower() for part in (setting or signer.public).split(",") if part.strip())
    for key in keys:
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise BackdropError(
                f"BACKDROP_TRUSTED_KEYS has {key[:80]!r}, which is no public key.",
                "A key is 64 hexadecimal digits; several are separated by commas.",
            )
    return keys


def _message(purpose: str, data: bytes) -> bytes:
    # With its purpose in front a signature for one thing is never good for another.
    return b"backdrop " + purpose.encode() + b"\0" + data


def _parse(pem: bytes, where: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise BackdropError(
            f"The signing key at {where} is no Ed25519 private key in PEM.",
            "Make one with `openssl genpkey -algorithm ed25519`, or restore the one that was there.",
        )
    return key


def _own_key(path: Path) -> bytes:
    """The PEM at `path`, made with mode 0600 by the first of all processes that ask."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        aside = path.with_name(f"{ASIDE_PREFIX}{secrets.token_hex(8)}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)  # whole or not at all, and never over another's
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return _read_private(path)


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            # A mounted secret belongs to root and may be readable by the pod's group; by the world it never is.
            if mode & (stat.S_IROTH | stat.S_IWOTH):
                raise BackdropError(f"The signing key {path} is open to everyone.", f"Run `chmod 600 {path}`.")
            return file.read()
    except OSError as error:
        raise BackdropError(f"Cannot read the signing key {path}: {error.strerror}.", "Give a readable PEM.") from None
