"""Both stores keep the same promises; S3 against a real socket."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from infra.errors import BackdropError, ServiceError
from infra.object_store import DirectoryStore, ObjectMissing, ObjectStore, list_uri, open_store, path_of, read_uri


@pytest.fixture(params=["store", "s3_store"])
def any_store(request: pytest.FixtureRequest) -> ObjectStore:
    return request.getfixturevalue(request.param)


def test_put_get_size_exists_delete(any_store: ObjectStore) -> None:
    any_store.put("a/b", b"one")
    any_store.put("a/b", b"three")
    assert any_store.get("a/b") == b"three"
    assert any_store.size("a/b") == 5
    assert any_store.exists("a/b")
    assert not any_store.exists("a")
    any_store.delete("a/b")
    any_store.delete("a/b")
    assert not any_store.exists("a/b")


def test_a_missing_object_names_key_and_store(any_store: ObjectStore) -> None:
    for ask in (any_store.get, any_store.size):
        with pytest.raises(ObjectMissing, match="no/such") as caught:
            ask("no/such")
        assert any_store.uri in str(caught.value)


def test_listing_is_sorted_by_key_and_recursive(any_store: ObjectStore) -> None:
    keys = ["a-b", "a/b", "a/b/c", "a/z", "a0", "ab/c", "b"]
    for key in keys:
        if key != "a/b":  # a folder and an object of one name do not fit into a file system
            any_store.put(key, b"")
    assert list(any_store.list("")) == ["a-b", "a/b/c", "a/z", "a0", "ab/c", "b"]
    assert list(any_store.list("a/")) == ["a/b/c", "a/z"]
    assert list(any_store.list("a")) == ["a-b", "a/b/c", "a/z", "a0", "ab/c"]
    assert list(any_store.list("a", start_after="a/b/c")) == ["a/z", "a0", "ab/c"]
    assert list(any_store.list("nothing/here")) == []


def test_delete_prefix_leaves_the_neighbours(any_store: ObjectStore) -> None:
    for key in ("x/1", "x/y/2", "x2/3"):
        any_store.put(key, b"")
    any_store.delete_prefix("x/")
    assert list(any_store.list("")) == ["x2/3"]


def test_files_go_in_and_out(any_store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc" * 1000)
    any_store.put_file("deep/file", source)
    any_store.fetch("deep/file", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == source.read_bytes()
    with pytest.raises(ObjectMissing):
        any_store.fetch("deep/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_store_is_found_by_its_uri_and_can_be_pickled(any_store: ObjectStore) -> None:
    any_store.put("k", b"v")
    assert open_store(any_store.uri).get("k") == b"v"
    assert pickle.loads(pickle.dumps(any_store)).get("k") == b"v"
    local = any_store.local_path("k")
    assert local is None or local.read_bytes() == b"v"


def test_read_and_list_any_uri(any_store: ObjectStore) -> None:
    for key in ("photos/a b.jpg", "photos/sub/c%d.jpg", "photos-old/d.jpg"):
        any_store.put(key, key.encode())
    found = list(list_uri(f"{any_store.uri}/photos"))
    assert [read_uri(uri) for uri in found] == [b"photos/a b.jpg", b"photos/sub/c%d.jpg"]
    assert list(list_uri(found[0])) == [found[0]]


def test_unfinished_writes_are_not_listed(store: DirectoryStore) -> None:
    store.put("a/b", b"")
    (store.folder / "a" / ".writing-123").write_bytes(b"half")
    assert list(store.list("")) == ["a/b"]


@pytest.mark.parametrize("key", ["", "../x", "/etc/passwd", "a//b", "a/./b", "a/"])
def test_keys_cannot_leave_the_store(store: ObjectStore, key: str) -> None:
    with pytest.raises(BackdropError, match="not a key"):
        store.put(key, b"")


def test_file_names_that_are_no_utf8_survive(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    (uri,) = list_uri(str(tmp_path))
    assert uri.isascii()
    assert read_uri(uri) == b"x"


def test_uris_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="gs://"):
        path_of("gs://bucket/x")
    with pytest.raises(BackdropError, match="names a host"):
        path_of("file://host/x")
    with pytest.raises(BackdropError, match="no folder"):
        list(list_uri(str(tmp_path / "none")))
    with pytest.raises(ObjectMissing):
        read_uri(str(tmp_path / "none"))
    with pytest.raises(BackdropError, match="cannot be read"):
        read_uri(str(tmp_path))
    assert list(list_uri(str(tmp_path))) == []


def test_s3_that_is_away_or_has_no_bucket(s3_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackdropError, match=r"bucket .* does not exist"):
        open_store("s3://no-such-bucket").put("k", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ServiceError, match="did not answer"):
        open_store(s3_store.uri).get("k")
