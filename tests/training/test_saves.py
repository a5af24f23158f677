"""Checkpoints that a resume trusts: what was changed, cut short or not recorded is passed over, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import ServiceError
from infra.jobs.ranks import Place
from infra.object_store import DirectoryStore
from training.saves import KEPT, CatalogRecord, Saves, loadable, step_of

ALONE = Place()


class Rows:
    """A record in memory; `away` is a catalog that does not answer."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.away = False

    def note(self, name: str, sha256: str) -> None:
        if self.away:
            raise ServiceError("the catalog is away", "wait")
        self.rows[name] = sha256

    def find(self, name: str) -> str | None:
        return self.rows.get(name)


def save(saves: Saves, step: int, content: bytes = b"weights") -> Path:
    aside = saves.place(step)
    (aside / "whole.pt").write_bytes(content + bytes([step]))
    saves.commit(step)
    return saves.folder / f"step-{step:08d}"


def test_the_newest_whole_checkpoint_is_found_and_old_ones_go(tmp_path: Path) -> None:
    saves = Saves(tmp_path, ALONE)
    assert saves.newest() is None
    for step in (2, 30, 7):
        save(saves, step)
    found = saves.newest()
    assert found is not None
    assert (step_of(found), loadable(found).name) == (30, "whole.pt")
    assert len(list(tmp_path.glob("step-*.json"))) == KEPT == len([p for p in tmp_path.iterdir() if p.is_dir()])
    (saves.place(40) / "whole.pt").write_bytes(b"killed while it was written")
    assert saves.newest() == found


def cut(path: Path) -> None:
    (path / "whole.pt").write_bytes((path / "whole.pt").read_bytes()[:-1])


def change(path: Path) -> None:
    (path / "whole.pt").write_bytes(b"X" + (path / "whole.pt").read_bytes()[1:])


def lose(path: Path) -> None:
    (path / "whole.pt").unlink()


def garble(path: Path) -> None:
    path.with_suffix(".json").write_bytes(b"{")


@pytest.mark.parametrize("damage", [cut, change, lose, garble])
def test_a_damaged_checkpoint_is_passed_over_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    saves = Saves(tmp_path, ALONE)
    older, newer = save(saves, 3), save(saves, 5)
    damage(newer)
    assert saves.newest() == older
    assert newer.name in caplog.text
    damage(older)
    assert saves.newest() is None


def test_who_can_write_the_folder_cannot_forge_what_the_catalog_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows()
    saves = Saves(tmp_path, ALONE, rows)
    older = save(saves, 3)
    save(saves, 5)
    save(Saves(tmp_path, ALONE), 5, b"forged")  # with a manifest that fits it
    assert Saves(tmp_path, ALONE).newest() == tmp_path / "step-00000005"
    assert saves.newest() == older
    assert "does not match the catalog's record" in caplog.text
    rows.rows.clear()
    assert saves.newest() is None
    assert "has no record" in caplog.text


def test_a_catalog_that_is_away_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows()
    saves = Saves(tmp_path, ALONE, rows)
    rows.away = True
    save(saves, 3)
    assert "cannot record the checkpoint step-00000003" in caplog.text
    rows.away = False
    save(saves, 5)
    assert rows.rows.keys() == {"step-00000003", "step-00000005"}


def test_while_the_catalog_is_away_what_it_has_recorded_stays(tmp_path: Path) -> None:
    rows = Rows()
    saves = Saves(tmp_path, ALONE, rows)
    save(saves, 1)
    recorded = save(saves, 2)
    rows.away = True
    for step in range(3, 9):
        save(saves, step)
    assert len(list(tmp_path.glob("step-*.json"))) == 2 * KEPT  # and the disk does not fill either
    rows.away = False
    assert Saves(tmp_path, ALONE, rows).newest() == recorded
    save(saves, 9)
    assert sorted(path.stem for path in tmp_path.glob("step-*.json")) == ["step-00000008", "step-00000009"]
    assert "step-00000003" not in rows.rows  # which is gone


def test_what_was_passed_over_does_not_count_as_kept(tmp_path: Path) -> None:
    saves = Saves(tmp_path, ALONE)
    first = save(saves, 30)
    cut(save(saves, 40))
    assert saves.newest() == first
    second, third = save(saves, 31), save(saves, 32)
    assert saves.newest() == third
    cut(third)
    assert saves.newest() == second


def test_a_checkpoint_of_the_other_layout_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, sharded = Saves(tmp_path, ALONE), Saves(tmp_path, ALONE, sharded=True)
    one = save(whole, 1)
    assert sharded.newest() is None
    assert "step-00000001 is passed over: it is one file, and this run saves a file per rank" in caplog.text
    (sharded.place(2) / "__0_0.distcp").write_bytes(b"part")
    sharded.commit(2)
    assert sharded.newest() == tmp_path / "step-00000002"
    assert whole.newest() == one
    assert "step-00000002 is passed over: it is a file per rank" in caplog.text


def test_what_was_cut_short_goes_with_the_next_one(tmp_path: Path) -> None:
    saves = Saves(tmp_path, ALONE)
    (saves.place(3) / "whole.pt").write_bytes(b"killed while it was written")
    save(saves, 5)
    assert not list(tmp_path.glob("*.partial"))


def test_a_copy_in_the_store_resumes_on_another_machine(tmp_path: Path) -> None:
    store, rows = DirectoryStore(tmp_path / "store"), Rows()
    here = Saves(tmp_path / "here", ALONE, rows, store, "out/checkpoints/tiny")
    for step in (1, 2, 3):
        save(here, step)
    assert len(list(store.list("out/checkpoints/tiny/"))) == 2 * KEPT
    there = Saves(tmp_path / "there", ALONE, rows, store, "out/checkpoints/tiny")
    found = there.newest()
    assert found == tmp_path / "there" / "step-00000003"
    assert loadable(found).read_bytes() == b"weights\x03"
    store.put("out/checkpoints/tiny/step-00000003/whole.pt", b"tampered")
    elsewhere = Saves(tmp_path / "elsewhere", ALONE, rows, store, "out/checkpoints/tiny")
    assert elsewhere.newest() == tmp_path / "elsewhere" / "step-00000002"


@pytest.mark.integration
def test_the_catalog_keeps_the_hash_of_record(tmp_path: Path, catalog_url: str) -> None:
    run = "s3://bucket/out/checkpoints/tiny"
    saves = Saves(tmp_path, ALONE, CatalogRecord(catalog_url, run))
    first = save(saves, 3)
    assert saves.newest() == first
    save(saves, 3, b"written again")
    assert saves.newest() == first
    assert Saves(tmp_path, ALONE, CatalogRecord(catalog_url, "another run")).newest() is None
