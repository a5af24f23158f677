"""Contract with mosaicml-streaming: imported lean it is the same package, written straight it gives the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import REPOSITORY


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_the_lean_import_gives_the_real_classes() -> None:
    """Contract with mosaicml-streaming: the parent's names are those of `streaming.base`, and nothing heavy comes."""
    lean = python(
        "import sys, infra._compat.streaming as s\n"
        "base = s.load()\n"
        "print([f'{getattr(s, n).__module__}.{n}' for n in s.NAMES])\n"
        "print([m for m in ('torchvision', 'sklearn', 'streaming.text', 'streaming.vision') if m in sys.modules])\n"
        "import streaming; print(streaming.MDSWriter is base.MDSWriter, streaming.__version__)\n"
    ).splitlines()
    real = python(
        "import streaming, infra._compat.streaming as s\n"
        "print([f'{getattr(streaming, n).__module__}.{n}' for n in s.NAMES])\n"
        "print(all(getattr(s, n) is getattr(streaming, n) for n in s.NAMES), streaming.__version__)\n"
    ).splitlines()
    assert lean[0] == real[0]
    assert lean[1] == "[]"
    assert lean[2] == real[1]


@pytest.mark.integration
def test_the_writer_without_torch_writes_the_same_bytes(tmp_path: Path) -> None:
    """Contract with mosaicml-streaming: writing needs nothing of torch, and leaves nothing of the stand-in behind."""
    write = (
        "import hashlib, pathlib, sys, infra._compat.streaming as s\n"
        "def write(writer, out):\n"
        "    with writer:\n"
        "        for k in range(200): writer.write({'a': bytes([k % 256]) * (99 + k), 'b': {'k': k}})\n"
        "    return {p.name: [p.stat().st_size, hashlib.sha256(p.read_bytes()).hexdigest()] for p in out.iterdir()}\n"
        f"columns, out = {{'a': 'bytes', 'b': 'json'}}, pathlib.Path({str(tmp_path)!r})\n"
    )
    lean = python(
        f"{write}from infra.shards.writing import shard_writer\n"
        "writer = shard_writer(columns, out / 'lean', 4096)\n"
        "facts = write(writer, out / 'lean')\n"
        "print(sorted(facts.items()))\n"
        "said = {name: [one['bytes'], one['sha256']] for name, one in writer.written.items()}\n"
        "print(len(facts), said == {name: one for name, one in facts.items() if name != 'index.json'})\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'streaming')])\n"
        "import torch; print(torch.zeros(2).sum().item(), s.load().StreamingDataset.__name__)\n"
    ).splitlines()
    real = python(
        f"{write}kind = s.load().MDSWriter\n"
        "print(sorted(write(kind(columns=columns, out=str(out / 'real'), size_limit=4096), out / 'real').items()))\n"
    ).splitlines()
    assert lean[0] == real[0]
    assert lean[1] == "13 True"
    assert lean[2:] == ["['streaming.base.storage.upload']", "0.0 StreamingDataset"]


@pytest.mark.integration
def test_composer_works_after_the_lean_import() -> None:
    out = python(
        "import infra._compat.streaming as s; s.load()\n"
        "import composer\n"
        "from composer.core import State, get_precision_context\n"
        "import streaming; print(composer.Trainer.__name__, streaming.StreamingDataset.__module__)\n"
    )
    assert out.split() == ["Trainer", "streaming.base.dataset"]
