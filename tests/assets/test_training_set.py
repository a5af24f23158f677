"""training_set refuses what was taken down: as a dagster asset, on a real catalog."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.line import Line
from assets.training_set import training_set
from infra.errors import BackdropError
from tests.assets.workshop import Workshop, image_id


def test_an_interrupted_takedown_is_named_and_a_finished_one_leaves_the_rest(
    tmp_path: Path, catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKDROP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("BACKDROP_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("BACKDROP_CATALOG_URL", catalog_url)
    monkeypatch.setenv("BACKDROP_PRESET", "tiny")
    line = Line()
    shop = Workshop(tmp_path, line.catalog)
    shop.fill()

    def made() -> tuple[str, int]:
        with dg.DagsterInstance.ephemeral() as instance:
            done = dg.materialize([training_set], instance=instance, resources={"line": line}, raise_on_error=True)
        metadata = done.asset_materializations_for_node("training_set")[0].metadata
        return str(metadata["dataset_version"].value), int(str(metadata["images"].value))

    before = made()
    assert before[1] == 10
    line.catalog.order_takedown("s3://shop/3", "asked to", [image_id(3)])
    with pytest.raises(BackdropError, match="taken down") as refused:
        made()
    assert "backdrop takedown s3://shop/3" in refused.value.remedy
    shop.take_down([3])
    after = made()
    assert after[1] == 9
    assert after[0] != before[0]
