"""`backdrop personalise`: where its photographs come from, and that nothing else starts a personalisation."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from infra.errors import BackdropError
from infra.settings import Settings
from orchestration.definitions import defs
from orchestration.personalise import photographs_in, teach
from training.personalise.subject import MOST


def test_pictures_of_a_folder_by_name_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name, data in {"a.JPG": b"one", "more/b.png": b"two", "notes.txt": b"no"}.items():
        (tmp_path / name).write_bytes(data)
    assert photographs_in(str(tmp_path)) == {"a.JPG": b"one", "more/b.png": b"two"}
    assert photographs_in(tmp_path.as_uri()) == photographs_in(str(tmp_path))


def test_a_folder_that_is_away_or_holds_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BackdropError, match=place.name) as caught:
            photographs_in(str(place))
        assert caught.value.remedy


def test_too_many_pictures_are_refused_before_one_is_read(tmp_path: Path) -> None:
    for number in range(MOST + 1):
        (tmp_path / f"{number}.jpg").symlink_to(tmp_path / "nowhere")  # reading one says that there is no file
    with pytest.raises(BackdropError, match=f"more than {MOST} pictures"):
        photographs_in(str(tmp_path))


@pytest.mark.parametrize(("subject", "word", "named"), [("My Mug", "mug", "My Mug"), ("mug", "", "class word")])
def test_names_are_checked_before_anything_is_listed_or_started(
    tmp_path: Path, subject: str, word: str, named: str
) -> None:
    with pytest.raises(BackdropError, match=named):
        teach(Settings(state=tmp_path / "state"), Console(), subject, str(tmp_path / "nowhere"), word, None)
    assert not (tmp_path / "state").exists()


def test_only_its_own_job_makes_a_personalised_model() -> None:
    jobs = {
        job: {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}
        for job in ("personalise", "retrain", "ingest")
    }
    assert jobs["personalise"] == {"personalized_model"}
    assert "personalized_model" not in jobs["retrain"] | jobs["ingest"]
