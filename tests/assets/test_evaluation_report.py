"""What the report's job is told: whom the engine has to beat, and what lies at the paths that judge it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assets.evaluation_report import champion_for, hash_of, judges_of
from deploy.registry import CHAMPION, REGISTERED_NAMES, TAINT_TAG, ModelVersion
from infra.catalog.ledger import DONE, FOUND, Entry
from training.presets.sections import EvaluateSection

MODEL = REGISTERED_NAMES["tensorrt_engine"]


def line_with(monkeypatch: pytest.MonkeyPatch, champion: ModelVersion | None, *moves: tuple[Any, ...]) -> Any:
    """A line whose alias made `moves` (kind, from, to, bundle), the oldest first."""

    class Known:
        def __init__(self, uri: str) -> None:
            assert uri == "uri"

        def get_alias(self, name: str, alias: str) -> ModelVersion | None:
            assert (name, alias) == (MODEL, CHAMPION)
            return champion

    rows = [
        Entry(kind, MODEL, CHAMPION, before, after, bundle, id=number)
        for number, (kind, before, after, bundle) in enumerate(moves, 1)
    ]
    monkeypatch.setattr("deploy.registry.Registry", Known)
    catalog = SimpleNamespace(settled=lambda name, alias: rows[::-1])
    return SimpleNamespace(settings=SimpleNamespace(mlflow_uri="uri"), catalog=catalog)


def version(number: str, bundle: str, **tags: str) -> ModelVersion:
    return ModelVersion(MODEL, number, bundle, tags)


def test_a_challenger_has_to_beat_the_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    assert champion_for(line_with(monkeypatch, None), "new") == (None, "")
    assert champion_for(line_with(monkeypatch, version("1", "one")), "new") == ("one", "")
    tainted = version("1", "one", **{TAINT_TAG: "takedown 3"})
    assert champion_for(line_with(monkeypatch, tainted), "new") == ("one", "the champion is tainted (takedown 3)")


def test_of_the_champion_itself_it_is_the_one_that_it_replaced_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, back = (DONE, None, "1", "one"), (DONE, "1", "2", "two"), (DONE, "2", "1", "one")
    assert champion_for(line_with(monkeypatch, version("1", "one"), first), "one") == (None, "")
    assert champion_for(line_with(monkeypatch, version("2", "two"), first, second), "two") == ("one", "")
    assert champion_for(line_with(monkeypatch, version("1", "one"), first, second, back), "one") == (None, "")


def test_an_alias_that_was_dropped_by_hand_left_no_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = [(DONE, None, "1", "one"), (FOUND, "1", None, ""), (DONE, None, "2", "two")]
    assert champion_for(line_with(monkeypatch, version("2", "two"), *moves), "two") == (None, "")
    # One that somebody set by hand to a version that is gone has no bundle to be opened.
    moves = [(FOUND, None, "1", ""), (DONE, "1", "2", "two")]
    assert champion_for(line_with(monkeypatch, version("2", "two"), *moves), "two") == (None, "")


def test_a_hash_is_of_what_lies_there(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    assert hash_of(folder) == hash_of(tmp_path / "nowhere") == ""
    (folder / "config.json").write_text("{}")
    whole = hash_of(folder)
    assert len(whole) == 64
    (folder / "config.json").write_text("{ }")
    assert hash_of(folder) != whole
    assert hash_of(folder / "config.json") not in ("", hash_of(folder))


def test_paths_that_judge_are_hashed_wherever_they_are_given_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "labels").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def judges(**values: Any) -> dict[str, str]:
        section = EvaluateSection(**values)
        return judges_of(SimpleNamespace(preset=SimpleNamespace(evaluate=section)))  # type: ignore[arg-type]

    known = hash_of(tmp_path / "weights")
    for place in ("weights", "~/weights", str(tmp_path / "weights")):
        assert judges(extractor=f"clip:{place}") == {place: known}
    assert judges(extractor="randconv:0") == judges(extractor="vae-latent") == {}
    assert judges(extractor="dinov2:nowhere", reward_labels="labels") == {
        "nowhere": "",
        "labels": hash_of(tmp_path / "labels"),
    }
