"""The files below a folder, in the order in which S3 lists keys, streamed.

One folder's names are sorted at a time. A folder with very many of them is sorted on disk, so that memory does not
grow with it. Names are compared as bytes: that is S3's order, and it also holds for names that are not UTF-8.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from infra.files import ASIDE_PREFIX

_IN_MEMORY = 5_000  # names of one folder; more go through a temporary file (5,000 names are about 0.5 MB)


def walk(folder: str) -> Iterator[str]:
    """Paths relative to `folder`, recursively, sorted as S3 sorts keys ('a-b' before 'a/b').

    Files that somebody is still writing (ASIDE_PREFIX) are left out. A folder that does not exist has no files.
    Links are followed, except one that leads back to a folder above.
    Raises PermissionError where a folder may not be read.
    """
    levels = [("", _children(folder), _identity(folder))]
    while levels:
        prefix, names, _ = levels[-1]
        name = next(names, None)
        if name is None:
            levels.pop()
        elif not name.endswith("/"):
            if not name.startswith(ASIDE_PREFIX):
                yield prefix + name
        else:
            path = os.path.join(folder, prefix + name)
            identity = _identity(path)
            if all(identity != above for _, _, above in levels):
                levels.append((prefix + name, _children(path), identity))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _children(folder: str) -> Iterator[str]:
    """Names in one folder, those of folders with a slash at the end, sorted by their bytes."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        names = (f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries)
        few = list(islice(names, _IN_MEMORY))
        if len(few) < _IN_MEMORY:
            yield from sorted(few, key=os.fsencode)
        else:
            yield from _sorted_on_disk(few, names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _sorted_on_disk(first: list[str], rest: Iterable[str]) -> Iterator[str]:
    spool = sqlite3.connect("", check_same_thread=False)  # "": a temporary file that nobody else can see
    try:
        spool.execute("PRAGMA journal_mode = OFF")
        spool.execute("CREATE TABLE names (name BLOB)")
        for part in (first, rest):
            spool.executemany("INSERT INTO names VALUES (?)", ((os.fsencode(name),) for name in part))
        first.clear()
        for (name,) in spool.execute("SELECT name FROM names ORDER BY name"):
            yield os.fsdecode(name)
    finally:
        spool.close()
