"""Signatures: by a trusted key, for one purpose, over exactly these bytes; the line's own key is private."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.signing import OWN_KEY, Signer, open_signer, trusted_keys, verify
from infra.errors import BackdropError

DATA = b'{"engine": 1}'


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return open_signer(None, tmp_path_factory.mktemp("state"))


def test_what_was_signed_is_verified(signer: Signer) -> None:
    assert verify("manifest", DATA, signer.sign("manifest", DATA), [signer.public], "it") == signer.public


def test_every_flipped_byte_of_data_or_signature_is_refused(signer: Signer) -> None:
    signature = signer.sign("manifest", DATA)
    for place in range(len(DATA)):
        changed = DATA[:place] + bytes([DATA[place] ^ 1]) + DATA[place + 1 :]
        with pytest.raises(BackdropError, match="is wrong"):
            verify("manifest", changed, signature, [signer.public], "it")
    for place in range(len(signature)):
        changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        with pytest.raises(BackdropError, match=r"damaged|wrong|not trusted"):
            verify("manifest", DATA, changed, [signer.public], "it")


def test_a_signature_is_good_for_one_purpose(signer: Signer) -> None:
    with pytest.raises(BackdropError, match="is wrong"):
        verify("approval", DATA, signer.sign("manifest", DATA), [signer.public], "it")


def test_a_stranger_is_not_trusted(signer: Signer, tmp_path: Path) -> None:
    stranger = open_signer(None, tmp_path)
    with pytest.raises(BackdropError, match="not trusted"):
        verify("manifest", DATA, stranger.sign("manifest", DATA), [signer.public], "it")
    # A stranger's signature under a trusted name is no better.
    forged = json.loads(stranger.sign("manifest", DATA)) | {"key": signer.public}
    with pytest.raises(BackdropError, match="is wrong"):
        verify("manifest", DATA, json.dumps(forged).encode(), [signer.public], "it")


def test_the_lines_own_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = {signer.public for signer in pool.map(lambda _: open_signer(None, tmp_path), range(8))}
    assert len(keys) == 1
    path = tmp_path / OWN_KEY
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    path.chmod(0o644)
    with pytest.raises(BackdropError, match="open to everyone"):
        open_signer(None, tmp_path)


def test_a_key_is_given_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = open_signer(None, tmp_path)
    pem = (tmp_path / OWN_KEY).read_text()
    monkeypatch.setenv("SIGNER", pem)
    assert open_signer("env:SIGNER", tmp_path).public == own.public
    assert open_signer(f"file:{tmp_path / OWN_KEY}", tmp_path).public == own.public
    for bad, why in [("env:NOBODY", "not set"), ("file:/nowhere.pem", "Cannot read"), (pem, "no reference")]:
        with pytest.raises(BackdropError, match=why) as refused:
            open_signer(bad, tmp_path)
        assert "PRIVATE KEY" not in str(refused.value)
    with pytest.raises(BackdropError, match="--key is no reference to a key"):
        open_signer("anna.pem", tmp_path, "--key")
    monkeypatch.setenv("SIGNER", "nonsense")
    with pytest.raises(BackdropError, match="no Ed25519"):
        open_signer("env:SIGNER", tmp_path)


def test_trusted_keys_are_checked(signer: Signer) -> None:
    assert trusted_keys(None, signer) == (signer.public,)
    assert trusted_keys(f"{'ab' * 32}, {signer.public}", signer) == ("ab" * 32, signer.public)
    with pytest.raises(BackdropError, match="no public key"):
        trusted_keys("short", signer)
