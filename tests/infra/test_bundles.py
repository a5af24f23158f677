from __future__ import annotations

from pathlib import Path

import pytest

from infra.bundles import manifest_key, open_bundle, write_bundle
from infra.errors import BackdropError
from infra.object_store import DirectoryStore, ObjectMissing


def write(store: DirectoryStore, tmp_path: Path, meta: object = "m") -> str:
    weights = tmp_path / "w"
    weights.write_bytes(b"weights")
    return write_bundle(store, "models/x", "dit", {"config.json": b"{}", "w.bin": weights}, {"note": meta})


def test_a_bundle_reads_back(store: DirectoryStore, tmp_path: Path) -> None:
    bundle = open_bundle(store, write(store, tmp_path))
    assert (bundle.kind, bundle.meta) == ("dit", {"note": "m"})
    assert bundle.read("config.json") == b"{}"
    assert bundle.fetch("w.bin", tmp_path / "out").read_bytes() == b"weights"


def test_the_id_is_the_content(store: DirectoryStore, tmp_path: Path) -> None:
    assert write(store, tmp_path) == write(store, tmp_path)
    assert write(store, tmp_path) != write(store, tmp_path, meta="other")


def test_a_changed_file_is_refused_and_not_kept(store: DirectoryStore, tmp_path: Path) -> None:
    bundle = open_bundle(store, write(store, tmp_path))
    store.put(bundle.files["w.bin"].key, b"weightz")
    with pytest.raises(BackdropError, match=r"'w\.bin' of the dit"):
        bundle.read("w.bin")
    with pytest.raises(BackdropError, match="not what was written"):
        bundle.fetch("w.bin", tmp_path / "out")
    assert not (tmp_path / "out" / "w.bin").exists()


def test_a_spoiled_local_copy_is_fetched_again(store: DirectoryStore, tmp_path: Path) -> None:
    bundle = open_bundle(store, write(store, tmp_path))
    bundle.fetch("w.bin", tmp_path / "out").write_bytes(b"spoiled")
    assert bundle.fetch("w.bin", tmp_path / "out").read_bytes() == b"weights"


def test_a_changed_manifest_is_refused(store: DirectoryStore, tmp_path: Path) -> None:
    identity = write(store, tmp_path)
    store.put(manifest_key(identity), store.get(manifest_key(identity)) + b" ")
    with pytest.raises(BackdropError, match="manifest of bundle"):
        open_bundle(store, identity)


def test_what_is_not_there_is_named(store: DirectoryStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        open_bundle(store, "0" * 64)
    with pytest.raises(BackdropError, match=r"no file 'y', only config\.json, w\.bin"):
        open_bundle(store, write(store, tmp_path)).read("y")
