"""Memory does not grow with the delivery: ten times as many files or rows cost the same."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.settings import REPOSITORY

SMALL, LARGE = 5_000, 50_000
# A list of the larger manifest's Items takes 25 MB (the last test), of its names alone 5 MB.
ALLOWED = 6 << 20  # bytes: SQLite's page caches (2 MB each) fill up once and are then full

# VmHWM and not getrusage: a child's ru_maxrss begins with what its parent had, and would hide any growth.
MEASURE = """
import sys
from assets.curation.readers import read_delivery
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
keep = [] if sys.argv[3] == "keep" else None
def count(place):
    number = 0
    for item in read_delivery(place):
        number += 1
        if keep is not None:
            keep.append(item)
    return number
warm = count(sys.argv[1])
before = peak()
print(warm, count(sys.argv[2]), peak() - before)
"""


def measure(small: Path, large: Path, keep: str = "") -> tuple[int, int, int]:
    """(items of the small delivery, of the large one, bytes by which the second raised the peak)."""
    command = [sys.executable, "-c", MEASURE, str(small), str(large), keep]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    warm, count, grown = map(int, done.stdout.split())
    return warm, count, grown


def folder(place: Path, count: int) -> Path:
    """One folder, half of it side files; a caption table for all."""
    place.mkdir()
    for number in range(count // 2):
        (place / f"a picture with a usual name {number:06}.jpg").write_bytes(b"\xff\xd8\xff")
        (place / f"a picture with a usual name {number:06}.txt").write_text(f"caption {number}")
    rows = ({"path": f"a picture with a usual name {number:06}.jpg", "caption": "x"} for number in range(count // 2))
    (place / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def jsonl(place: Path, count: int) -> Path:
    with (path := place.with_suffix(".jsonl")).open("w") as file:
        for number in range(count):
            file.write(
                json.dumps({"uri": f"s3://bucket/{number * 7919 % count:06}.jpg", "caption": "words " * 10}) + "\n"
            )
    return path


def parquet(place: Path, count: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    uris = [f"s3://bucket/{number * 7919 % count:06}.jpg" for number in range(count)]
    table = pa.table({"uri": uris, "caption": [f"{number} words " * 10 for number in range(count)]})
    pq.write_table(table, path := place.with_suffix(".parquet"), row_group_size=5_000)
    return path


def tar(place: Path, count: int) -> Path:
    with tarfile.open(path := place.with_suffix(".tar"), "w", format=tarfile.USTAR_FORMAT) as out:
        for number in range(count // 2):
            for suffix, data in ((".jpg", b"\xff\xd8\xff"), (".txt", b"caption")):
                info = tarfile.TarInfo(f"folder/{number:06}{suffix}")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("make", [folder, jsonl, parquet, tar])
def test_ten_times_the_delivery_takes_the_same_memory(make: Callable[[Path, int], Path], tmp_path: Path) -> None:
    small, large = make(tmp_path / "small", SMALL), make(tmp_path / "large", LARGE)
    warm, count, grown = measure(small, large)
    print(f"{make.__name__}: {warm} → {count} items, peak memory grew by {grown / 2**20:.1f} MiB")
    assert count == 10 * warm
    assert grown < ALLOWED


def test_the_measurement_would_see_a_list(tmp_path: Path) -> None:
    _, _, grown = measure(jsonl(tmp_path / "small", SMALL), jsonl(tmp_path / "large", LARGE), "keep")
    assert grown > 3 * ALLOWED
