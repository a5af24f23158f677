"""A subject: its name, its class word and its photographs, kept in the object store. Importable without torch.

subjects/<name>.json        the record, written last
subjects/<name>/<sha>.jpg   each photograph, upright and without metadata
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from infra import images
from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes
from infra.images import BadImage
from infra.object_store import ObjectStore

log = logging.getLogger(__name__)

ROOT = "subjects/"
PLACEHOLDER = "<subject>"
"""Stands in a caption for a subject that was learned as a token."""
PROMPTS = ("a photo of a {}", "a {}", "product photo of a {}", "studio shot of a {}", "a close photo of a {}")
"""What is said of every photograph, after the templates of textual inversion (Gal et al. 2022)."""
MOST = 64  # photographs
FEW = 3
_LONGEST_SIDE = 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_WORD = re.compile(r"[^\W\d_]+(?:[ -][^\W\d_]+){0,3}")


@dataclass(frozen=True)
class Subject:
    """`word` says what it is ("bottle"); `photographs` are keys in the store, whose names hold their hashes."""

    name: str
    word: str
    photographs: tuple[str, ...]

    @property
    def image_ids(self) -> list[str]:
        """The SHA-256 of each photograph as it is kept."""
        return [key.rpartition("/")[2].partition(".")[0] for key in self.photographs]


def record_subject(store: ObjectStore, name: str, word: str, pictures: Mapping[str, bytes]) -> Subject:
    """Keep a subject's photographs, `pictures` being file name → bytes; what was there under its name is replaced.

    Raises:
        BackdropError: a name or word that will not do, no photograph or too many, or one that cannot be read.
    """
    check_names(name, word)
    if not 1 <= len(pictures) <= MOST:
        raise BackdropError(f"{len(pictures)} photographs of {name}", f"give 1 to {MOST}; five are enough")
    prepared: dict[str, bytes] = {}
    for file, data in sorted(pictures.items()):
        try:
            clean = images.prepare(data, max_side=_LONGEST_SIDE)
        except BadImage as error:
            raise BackdropError(f"{file} cannot be read: {error}", "take it out of the folder or replace it") from None
        prepared[f"{ROOT}{name}/{sha256_bytes(clean.data)}.{clean.format}"] = clean.data
    if len(prepared) < FEW:
        log.warning("%s has %d different photographs: fewer than %d may teach it poorly", name, len(prepared), FEW)
    for key, data in prepared.items():
        store.put(key, data)
    subject = Subject(name, word, tuple(sorted(prepared)))
    store.put(_key(name), canonical_json(asdict(subject)))
    for key in list(store.list(f"{ROOT}{name}/")):
        if key not in prepared:
            store.delete(key)
    return subject


def check_names(name: str, word: str) -> None:
    """Raises BackdropError for a name or class word that will not do."""
    if not _NAME.fullmatch(name):
        raise BackdropError(
            f"{name!r} is no name for a subject", "use up to 40 lower-case letters, digits, - and _, such as my-mug"
        )
    if not _WORD.fullmatch(word):
        raise BackdropError(
            f"{word!r} is no class word", "say in one to four words what the subject is, such as mug or rubber duck"
        )


def read_subject(store: ObjectStore, name: str) -> Subject:
    """The recorded subject. Raises BackdropError when there is none of that name."""
    if not store.exists(_key(name)):
        raise BackdropError(
            f"there is no subject {name!r}", f"run `backdrop personalise {name} --images <folder> --word <class>` first"
        )
    record = json.loads(store.get(_key(name)))
    return Subject(record["name"], record["word"], tuple(record["photographs"]))


def photographs_of(store: ObjectStore, keys: Sequence[str], size: int) -> np.ndarray:
    """The photographs as uint8 (N, size, size, 3), cut to a square from their middle."""
    return np.stack([images.fit(images.decode(store.get(key)), size) for key in keys])


def prompts_for(thing: str) -> list[str]:
    """`PROMPTS` about `thing`, named without an article: "sks mug"."""
    return [prompt.format(thing) for prompt in PROMPTS]


def _key(name: str) -> str:
    return f"{ROOT}{name}.json"
