"""Both stores keep the same promises; S3 against a real socket."""

from __future__ import annotations

import os
import pickle
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.errors import BackdropError, ServiceError
from infra.object_store import DirectoryStore, ObjectMissing, ObjectStore, list_uri, open_store, path_of, read_uri
from infra.uris import file_uri, list_objects, member_uri, open_uri, parse_member, read_head
from infra.walk import walk


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
    moved = source.with_name("moved")
    moved.write_bytes(source.read_bytes())
    any_store.take_file("deep/moved", moved)
    assert any_store.get("deep/moved") == source.read_bytes()
    assert not moved.exists()
    any_store.delete("deep/moved")
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


def test_heads_and_members_are_ranged_reads(any_store: ObjectStore) -> None:
    any_store.put("a b#1.tar", bytes(range(256)))
    any_store.put("empty", b"")
    (tar,) = (uri for uri in list_uri(any_store.uri) if uri.endswith(".tar"))
    assert read_head(tar, 4) == b"\0\1\2\3"
    assert read_head(tar, 1000) == read_uri(tar) == bytes(range(256))
    assert read_head(f"{any_store.uri}/empty", 4) == b""
    uri = member_uri(tar, 10, 5)
    assert parse_member(uri) == (tar, 10, 5)
    assert read_uri(uri) == bytes(range(10, 15))
    assert read_uri(member_uri(tar, 10, 0)) == b""
    for beyond in (member_uri(tar, 250, 10), member_uri(tar, 256, 1), member_uri(tar, 9999, 1)):
        with pytest.raises(BackdropError, match="cut short"):
            read_uri(beyond)
    with pytest.raises(ObjectMissing):
        read_uri(member_uri(f"{any_store.uri}/none.tar", 0, 1))
    assert parse_member(tar) is None
    assert parse_member("/a plain path/x.tar#1+2") is None


def test_a_listing_tells_size_and_etag(any_store: ObjectStore) -> None:
    any_store.put("d/a", b"123")
    any_store.put("d/b", b"")
    found = list(list_objects(f"{any_store.uri}/d"))
    assert [(one.name, one.size) for one in found] == [("a", 3), ("b", 0)]
    assert all(one.etag for one in found)
    assert list(list_objects(f"{any_store.uri}/d/a")) == [found[0]]


def test_a_stream_reads_and_seeks_like_a_file(any_store: ObjectStore) -> None:
    data = random.Random(0).randbytes(3 << 20)
    any_store.put("big", data)
    with open_uri(f"{any_store.uri}/big") as file:
        assert file.read(10) == data[:10]
        for position in (1 << 20, 5, (3 << 20) - 7, 2 << 20, (3 << 20) + 5, 17):
            assert file.seek(position) == position
            assert file.read(1000) == data[position : position + 1000]
        assert file.seek(-3, os.SEEK_END) == len(data) - 3
        assert file.read() == data[-3:]
    with pytest.raises(ObjectMissing):
        open_uri(f"{any_store.uri}/none")


def test_an_object_replaced_while_it_is_read_is_an_error(s3_store: ObjectStore) -> None:
    s3_store.put("big", b"a" * (3 << 20))
    with open_uri(f"{s3_store.uri}/big") as file:
        file.read(1)
        s3_store.put("big", b"b" * (3 << 20))
        file.seek(2 << 20)
        with pytest.raises(BackdropError, match="replaced"):
            file.read(1)


@pytest.fixture
def shaky(s3_server: str) -> Iterator[tuple[str, list[int]]]:
    """A line to the S3 server that breaks after as many bytes of an answer as the list says, then holds."""
    target = urlsplit(s3_server)
    breaks: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def forward(client: socket.socket) -> None:
        with client, socket.create_connection((target.hostname, target.port)) as server:
            while request := client.recv(1 << 16):
                left = breaks.pop(0) if breaks and b"GET " in request else None
                server.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
                while answer := server.recv(1 << 16):
                    client.sendall(answer if left is None else answer[:left])
                    if left is not None and (left := left - len(answer)) <= 0:
                        return
                return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=forward, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", breaks
    listener.close()


def test_a_stream_goes_on_where_its_connection_broke(
    s3_store: ObjectStore, shaky: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(1).randbytes(2 << 20)
    s3_store.put("big", data)
    address, breaks = shaky
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    breaks += [500_000, 700_000]
    with open_uri(f"{s3_store.uri}/big") as file:
        assert file.read() == data
    assert not breaks
    breaks += [600_000]
    monkeypatch.setattr("infra.s3_file._TRIES", 1)
    with open_uri(f"{s3_store.uri}/big") as file:
        file.read(1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(ServiceError, match="did not answer"):
            file.read()


def test_a_large_folder_is_sorted_like_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number % 7}-{number}" for number in range(300)] + [os.fsdecode(b"\xff"), "é", "\U0001f600", "\uffff"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "x").touch()
    small = list(walk(str(tmp_path)))
    monkeypatch.setattr("infra.walk._IN_MEMORY", 50)
    assert list(walk(str(tmp_path))) == small == sorted([*names, "0/x"], key=os.fsencode)


def test_one_client_serves_all_reads_of_a_process(s3_store: ObjectStore) -> None:
    from infra.s3 import client

    first = client()
    s3_store.put("a", b"x")
    read_uri(f"{s3_store.uri}/a")
    assert client() is first


def test_file_uris_are_those_of_pathlib(tmp_path: Path) -> None:
    for name in ("a b", "ü#%?", os.fsdecode(b"\xff\n")):
        assert file_uri(str(tmp_path / name)) == (tmp_path / name).as_uri()
        assert path_of(file_uri(str(tmp_path / name))) == tmp_path / name
