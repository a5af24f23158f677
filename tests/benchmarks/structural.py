"""The structural pass against its parts chained in a bare loop, against cleanvision, and against Daft.

The bare loop calls the same libraries on the same files and writes MDS shards, with no bookkeeping: no verdict, no
catalog, nothing that could be resumed or taken back. Peers run in their own environment (`make bench` makes it).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from assets.curation.crew import Crew, Hands
from assets.curation.duplicates import phash
from infra.images import encode_jpeg, prepare
from infra.settings import REPOSITORY
from tests.benchmarks.corpus import write_corpus
from tests.benchmarks.promise import Promise
from tests.benchmarks.workbench import Cost, cost_of, workbench

COUNT = int(os.environ.get("BENCH_IMAGES", "20000"))
PEER_COUNT = 2000
PEERS = Path(os.environ.get("BENCH_PEERS", REPOSITORY / ".venv-peers")) / "bin" / "python"


def promises() -> Iterator[Promise]:
    folder = Path(tempfile.mkdtemp(prefix="backdrop-corpus-"))
    try:
        files = write_corpus(folder / "all", COUNT)
        few = folder / "few"
        few.mkdir()
        for path in files[:PEER_COUNT]:
            os.link(path, few / path.name)
        for path in files:
            path.read_bytes()  # into the page cache, for every side
        rates = {}
        bare_loop([], 2)  # its imports are not counted; ours are
        for workers in (1, 2):
            bare = cost_of(lambda workers=workers: bare_loop(files, workers))  # type: ignore[misc]
            ours = ours_on(folder / "all", workers)
            _say(f"bare loop, {workers} process(es)", bare, COUNT)
            _say(f"structural pass, {workers} process(es)", ours, COUNT)
            rates[workers] = COUNT / ours.seconds
            yield Promise(f"structural pass over bare loop, {workers} process(es)", bare.seconds / ours.seconds, 0.75)
        yield from against_peers(few, rates[2])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ours_on(folder: Path, workers: int) -> Cost:
    with workbench() as bench:
        packed: list[int] = []
        bench.list(str(folder))  # the bare loop is given its list, too
        cost = cost_of(lambda: packed.append(bench.curate(workers=workers)))
        assert packed[0] > 0.95 * COUNT, f"only {packed[0]} of {COUNT} were packed"
    return cost


# ── the bare loop ─────────────────────────────────────────────────────────────────────────────────────────────────


def bare_loop(files: list[Path], workers: int) -> None:
    """Reads, hashes, decodes, fingerprints, measures the blur and packs; in `workers` processes, a part each."""
    parts = [files[k::workers] for k in range(workers)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.structural", "streaming.base"])
    processes = [context.Process(target=_bare, args=(part,)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _bare(files: list[Path]) -> None:
    from infra._compat.streaming import MDSWriter

    cv2.setNumThreads(1)
    out = Path(tempfile.mkdtemp(prefix="backdrop-bare-"))
    with MDSWriter(columns={"id": "str", "image": "bytes"}, out=str(out / "mds"), size_limit=64 << 20) as writer:
        for path in files:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            simplejpeg.decode_jpeg_header(data)
            image = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            low = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32))[:8, :8].ravel()
            np.packbits(low > np.median(low))
            cv2.Laplacian(grey, cv2.CV_64F).var()
            writer.write({"id": digest, "image": data})
    shutil.rmtree(out)


# ── peers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def against_peers(few: Path, rate: float) -> Iterator[Promise]:
    if not PEERS.exists():
        print(f"no peers to compare with: {PEERS} is missing (`make bench` makes it)")
        return
    cleanvision = peer("cleanvision_peer", few)
    _say("cleanvision, 2 processes", cleanvision, PEER_COUNT)
    yield Promise("structural pass over cleanvision", rate / (PEER_COUNT / cleanvision.seconds), 5)
    for resized, bar in ((False, 1.0), (True, 1.3)):
        daft = peer("daft_peer", few, "resize" if resized else "plain")
        ours = cost_of(partial(hash_to_parquet, few, resized))
        what = "decode, hash, resize, encode, parquet" if resized else "decode, hash, parquet"
        _say(f"Daft: {what}", daft, PEER_COUNT)
        _say(f"ours: {what}", ours, PEER_COUNT)
        yield Promise(f"over Daft: {what}", daft.seconds / ours.seconds, bar)


def peer(name: str, *arguments: object) -> Cost:
    """What a peer's program says it cost, without its imports."""
    command = [str(PEERS), str(REPOSITORY / "tests" / "benchmarks" / "peers" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(**json.loads(done.stdout.strip().splitlines()[-1]))


def hash_to_parquet(folder: Path, resized: bool) -> None:
    """Our side of what Daft is asked to do: the same steps with this project's own functions, in two processes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(folder.glob("*.jpg"))
    tasks = [files[k : k + 100] for k in range(0, len(files), 100)]
    out = Path(tempfile.mkdtemp(prefix="backdrop-parquet-"))
    with Crew(2) as crew:
        rows = [row for some in crew.map(partial(_hash_some, resized), tasks) for row in some]
    columns = {name: [row[k] for row in rows] for k, name in enumerate(("path", "phash", "image"))}
    pq.write_table(pa.table(columns), out / "hashes.parquet")
    shutil.rmtree(out)


def _hash_some(resized: bool, files: list[Path], hands: Hands, poisoned: object) -> list[tuple[str, int, bytes]]:
    cv2.setNumThreads(1)
    rows = []
    for path in files:
        picture = prepare(path.read_bytes())
        small = b""
        if resized:
            small = encode_jpeg(cv2.resize(picture.pixels, (256, 256), interpolation=cv2.INTER_AREA), 90)
        value = phash(picture.pixels)
        rows.append((str(path), value - (1 << 64) if value >> 63 else value, small))
    return rows


def _say(what: str, cost: Cost, count: int) -> None:
    print(
        f"{what}: {count / cost.seconds:.0f} images/s, {count / cost.cpu_seconds:.0f} per processor second "
        f"({cost.cpu_seconds:.1f} CPU s)",
        flush=True,
    )
