"""A subject: its name, its class word and its photographs, kept in the object store. Importable without torch.

subjects/<name>.json        the record, written last; beside each photograph the hashes of the files it was made of
subjects/<name>/<sha>.jpg   each photograph, upright and without metadata
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace

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
    """`word` says what it is ("bottle"); `photographs` are keys in the store, whose names hold their hashes; `sources`
    has for each the SHA-256 of the files it was made of, which is how a catalog would know them."""

    name: str
    word: str
    photographs: tuple[str, ...]
    sources: Mapping[str, Sequence[str]]

    def ids_of(self, key: str) -> set[str]:
        """Every image id that one photograph goes by: of what is kept, and of the files that were given."""
        return {key.rpartition("/")[2].partition(".")[0], *self.sources[key]}

    @property
    def image_ids(self) -> list[str]:
        """Those of all photographs."""
        return sorted({image_id for key in self.photographs for image_id in self.ids_of(key)})


def record_subject(
    store: ObjectStore,
    name: str,
    word: str,
    pictures: Mapping[str, bytes],
    taken_down: Callable[[Sequence[str]], Set[str]] = lambda _: set(),
) -> Subject:
    """Keep a subject's photographs, `pictures` being file name → bytes; what was there under its name is replaced.

    `taken_down` says which of some image ids are on the skip list.

    Raises:
        BackdropError: a name or word that will not do, no photograph or too many, or one that cannot be read or was
            taken down.
    """
    check_names(name, word)
    if not 1 <= len(pictures) <= MOST:
        raise BackdropError(f"{len(pictures)} photographs of {name}", f"give 1 to {MOST}; five are enough")
    prepared: dict[str, bytes] = {}
    sources: dict[str, list[str]] = {}
    for file, data in sorted(pictures.items()):
        try:
            clean = images.prepare(data, max_side=_LONGEST_SIDE)
        except BadImage as error:
            raise BackdropError(f"{file} cannot be read: {error}", "take it out of the folder or replace it") from None
        ids = kept, given = sha256_bytes(clean.data), sha256_bytes(data)
        if taken_down(ids):
            raise BackdropError(f"{file} was taken down and must not be used", "take it out of the folder")
        key = f"{ROOT}{name}/{kept}.{clean.format}"
        prepared[key] = clean.data
        sources[key] = sorted({*sources.get(key, ()), given})
    if len(prepared) < FEW:
        log.warning("%s has %d different photographs: fewer than %d may teach it poorly", name, len(prepared), FEW)
    for key, data in prepared.items():
        store.put(key, data)
    subject = Subject(name, word, tuple(sorted(prepared)), sources)
    _write(store, subject)
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
    photographs = tuple(record["photographs"])
    # The first records were written without sources: their photographs go by what is kept alone.
    sources = record.get("sources", {key: [] for key in photographs})
    return Subject(record["name"], record["word"], photographs, sources)


def every_subject(store: ObjectStore) -> Iterator[Subject]:
    """All subjects that are recorded."""
    for key in list(store.list(ROOT)):
        if key.endswith(".json"):
            yield read_subject(store, key.removeprefix(ROOT).removesuffix(".json"))


def forget_photographs(store: ObjectStore, subject: Subject, ids: Collection[str]) -> list[str]:
    """Delete the photographs that go by one of these image ids, and the subject with its last one; their keys."""
    gone = [key for key in subject.photographs if not subject.ids_of(key).isdisjoint(ids)]
    for key in gone:
        store.delete(key)
    # The record last: by it they are found again, should this be interrupted.
    left = {key: subject.sources[key] for key in subject.photographs if key not in gone}
    if gone and left:
        _write(store, replace(subject, photographs=tuple(left), sources=left))
    elif gone:
        store.delete(_key(subject.name))
    return gone


def unrecorded_photographs(store: ObjectStore) -> list[str]:
    """Keys of photographs that no record names: a recording that was killed left them."""
    named = {key for subject in every_subject(store) for key in subject.photographs}
    return [key for key in store.list(ROOT) if not key.endswith(".json") and key not in named]


def photographs_of(store: ObjectStore, keys: Sequence[str], size: int) -> np.ndarray:
    """The photographs as uint8 (N, size, size, 3), cut to a square from their middle."""
    return np.stack([images.fit(images.decode(store.get(key)), size) for key in keys])


def prompts_for(thing: str) -> list[str]:
    """`PROMPTS` about `thing`, named without an article: "sks mug"."""
    return [prompt.format(thing) for prompt in PROMPTS]


def _write(store: ObjectStore, subject: Subject) -> None:
    store.put(_key(subject.name), canonical_json(asdict(subject)))


def _key(name: str) -> str:
    return f"{ROOT}{name}.json"
