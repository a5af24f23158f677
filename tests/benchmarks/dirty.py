"""Crafted dirty files with known truth (BACKDROP_SAMPLES): what became of each kind, and whether anything was lost."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from infra.catalog.rows import VerdictRow
from infra.files import sha256_bytes
from infra.images import decode
from infra.shards import read_slices
from tests.benchmarks.promise import Promise
from tests.benchmarks.workbench import PeakMemory, workbench

PRIVATE = (b"GPS", b"Exif", b"example.com", b"http://ns.adobe.com/xap")


def promises() -> Iterator[Promise]:
    root = Path(os.environ.get("BACKDROP_SAMPLES", "")) / "dirty"
    if not os.environ.get("BACKDROP_SAMPLES") or not (root / "labels.csv").is_file():
        print("no dirty files: BACKDROP_SAMPLES does not name a folder that holds them")
        return
    labels = {row["path"]: row for row in csv.DictReader((root / "labels.csv").open())}
    with workbench() as bench:
        memory = PeakMemory()
        memory.start()
        bench.list(str(root), "dirty")
        result = bench.filter("dirty", masks=False)
        peak = memory.stop()
        found = outcomes(bench.catalog.sightings("dirty"), bench.catalog.verdicts("dirty"), root)
        samples = list(read_slices(bench.store, bench.catalog.slices(delivery="dirty"), bench.folder / "cache"))
        packed = {sample["id"] for sample in samples}
        quarantined = {
            row.image_id for row in bench.catalog.quarantine("dirty") if not row.key or bench.store.exists(row.key)
        }
    print(f"funnel: {[(step['filter'], step['dropped']) for step in result.data['funnel']]}")
    yield from judged(labels, found, packed, quarantined, root)
    leaks = [sample["source"] for sample in samples if any(word in sample["image"] for word in PRIVATE)]
    yield Promise("shards with private metadata", len(leaks), 0, at_least=False)
    assert all(decode(sample["image"]).ndim == 3 for sample in samples)
    yield Promise("memory on dirty files", peak / 1e9, 1, "GB", at_least=False)


def outcomes(sightings: Iterator[object], verdicts: Iterator[VerdictRow], root: Path) -> dict[str, tuple[str, str]]:
    """path → (what became of it, why)."""
    uris = {row.id: unquote(row.uri).split(f"{root.name}/", 1)[-1] for row in sightings}  # type: ignore[attr-defined]
    by_path = defaultdict(list)
    for verdict in verdicts:
        by_path[uris[verdict.sighting]].append(verdict)
    found = {}
    for path, some in by_path.items():
        dropped = [v for v in some if v.decision == "drop"]
        fixed = [v for v in some if v.decision == "fix"]
        became = "keep"
        if any(v.filter in ("read", "decode") for v in dropped):
            became = "quarantine"
        elif dropped:
            became = "drop"
        elif any(v.filter == "caption" and v.reason.startswith("recaption") for v in fixed):
            became = "recaption"
        elif fixed:
            became = "fix"
        found[path] = (became, "; ".join(v.reason for v in dropped or fixed))
    return found


def judged(
    labels: dict[str, dict[str, str]],
    found: dict[str, tuple[str, str]],
    packed: set[str],
    quarantined: set[str | None],
    root: Path,
) -> Iterator[Promise]:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    right: Counter[str] = Counter()
    lost = 0
    for path, row in labels.items():
        wanted, (became, why) = row["expected_action"], found.get(path, ("nothing", ""))
        image_id = sha256_bytes((root / path).read_bytes())
        table[wanted][became] += 1
        match wanted:
            case "keep":  # its container or its metadata may have been mended; its picture is there
                good = image_id in packed
            case "quarantine":
                good = became == "quarantine" and image_id in quarantined
            case "fix":
                good = became in ("fix", "recaption") and image_id in packed
            case "drop":
                good = became == "drop" or (row["reason"] == "exact_duplicate" and image_id in packed)
            case _:
                good = became in wanted or wanted == "policy" or (became == "fix" and "recaption" in wanted)
        right[wanted] += good
        lost += not good and row["category"].startswith("hard_negative")
        if not good:
            print(f"  {path}: {wanted} ({row['reason'] or row['category']}), became {became}: {why}")
    for wanted, counts in sorted(table.items()):
        print(f"{wanted:>20}: {right[wanted]} of {sum(counts.values())} right; became {dict(counts.most_common())}")
    for wanted, bar in (("quarantine", 1.0), ("keep", 0.95), ("drop", 0.9), ("fix", 0.9)):
        yield Promise(f"dirty files to {wanted}", right[wanted] / sum(table[wanted].values()), bar)
    yield Promise("hard negatives lost", lost, 0, at_least=False)
