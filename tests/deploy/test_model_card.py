"""The model card: everything in it is the catalog's or a result's, and nothing is lost without a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.failures import worst_answers
from deploy.model_card import FAILURES, Card, gather, markdown, metric_rows, page
from deploy.registry import TAINT_TAG, ModelVersion
from deploy.samples import Sample
from infra.bundles import write_bundle
from infra.catalog import Catalog
from infra.images import decode
from infra.jobs.spec import Check, JobResult
from infra.object_store import open_store
from tests.assets.workshop import DELIVERY, Workshop, image_id

SIDE = 16
KEY = {"extractor": "dinov2", "weights": "ab" * 32, "preprocessing": "224 × 224", "reference": "cd" * 32}


def samples(count: int) -> list[Sample]:
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    product = np.zeros((SIDE, SIDE), bool)
    product[4:8, 4:8] = True
    return [Sample(f"{row:064x}", image, product, (f"caption {row}",), {}, "test") for row in range(count)]


def test_the_worst_answers_come_first() -> None:
    made = np.stack([np.full((SIDE, SIDE, 3), 10 * row, np.uint8) for row in range(6)])
    scores = {
        "adherence": np.array([1, 0.5, 0, 1, 0, 0.5]),
        "leakage": np.array([0, 0, 0.1, 0, 0.4, 0]),  # less is better: of rows 2 and 4 the second is worse
        "shadow": np.full(6, np.nan),
    }
    asked = samples(6)
    found = worst_answers(asked, [one.caption for one in asked], made, scores, "adherence", count=3)
    assert found is not None
    assert [line["caption"] for line in found.lines] == ["caption 4", "caption 2", "caption 1"]
    assert found.lines[0] == {"caption": "caption 4", "adherence": 0.0, "leakage": 0.4}
    assert found.ids == [f"{row:064x}" for row in (4, 2, 1)]
    drawn = decode(found.png)
    assert drawn.shape == (2 * SIDE, 3 * SIDE + 8, 3)
    assert drawn[SIDE + 1, 1].tolist() == [40, 40, 40]  # what came back, below what was given
    assert drawn[SIDE + 5, 5].tolist() == [90, 90, 90]  # with the product's own pixels
    assert worst_answers([], [], made[:0], scores, "adherence") is None


@pytest.fixture
def shop(tmp_path: Path, catalog_url: str) -> Iterator[Workshop]:
    catalog = Catalog(catalog_url)
    shop = Workshop(tmp_path, catalog)
    shop.fill()
    yield shop
    catalog.close()


def evaluation(store_key: str) -> JobResult:
    return JobResult(
        data={
            "metrics": {
                "judged": {
                    "adherence": {"mean": 0.91, "low": 0.88, "high": 0.94, "n": 256},
                    "feature_distance": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 200, **KEY},
                },
                "distances": {name: {"value": 0.25, "metric": name, "n": 200, **KEY} for name in ("kid", "cmmd")},
                "guards": {"kid": {"champion": {"value": 0.125}, "p": 0.04}},
                "energy": {"joules": 1.5, "watts": 30.0, "source": "RAPL, 1 package(s)"},
            },
            "failures": [{"caption": "a red wall <b>", "adherence": 0.25}],
        },
        checks=[Check(name="photographs", passed=False, metadata={"bar": 0.6}), Check(name="gate", passed=True)],
        pictures={FAILURES: store_key, "Loss": store_key},
    )


@pytest.fixture
def card(shop: Workshop) -> Card:
    version = shop.version().version
    store = open_store(shop.store.uri)
    teacher = write_bundle(store, "t", "dit", {"w": b"t"}, {"dataset": version})
    engine = write_bundle(store, "e", "engine", {"w": b"e"}, {"sources": {"student": teacher}})
    shop.catalog.record_model(teacher, "pretrained_dit", "v", version, "run-of-teacher")
    shop.catalog.record_model(engine, "tensorrt_engine", "v", version)
    shop.catalog.order_takedown(image_id(3), "asked to", [image_id(3)])
    store.put("failures.png", b"png")
    stages = {
        "pretrained_dit": JobResult(
            data={"model": teacher}, metadata={"steps": 1300, "seconds": 7200.0, "joules": 7.2e6, "note": "x"}
        ),
        "distilled_model": JobResult(data={"model": "another"}, metadata={"steps": 99, "seconds": 3600.0}),
    }
    found = ModelVersion("backdrop-engine", "4", engine, {TAINT_TAG: "takedown 1: asked to"})
    cost = {"gpu_seconds": 5400.0, "gpu_cost": 3.0}
    return gather(store, shop.catalog, found, evaluation("failures.png"), stages, cost)


@pytest.mark.integration
def test_a_card_tells_data_recipe_cost_and_failures(card: Card) -> None:
    text = markdown(card)
    assert "# backdrop-engine version 4" in text
    assert "trained on what was taken down since: takedown 1: asked to" in text
    assert "was withdrawn: takedown 1: asked to" in text
    assert DELIVERY in text
    assert any(row[1] == "size" for row in card.filters)
    assert ("GPU-hours", "1.5") in card.cost
    assert ("energy", "2 kWh") in card.cost
    assert ("hours of its jobs, on any device", "3") in card.cost
    made_of = [(row[0], row[2]) for row in card.recipe[1:]]
    assert made_of == [("tensorrt_engine", ""), ("pretrained_dit", "run-of-teach")]
    assert "steps 1300" in card.recipe[2][3]
    assert "99" not in text, "a stage's numbers are those of this lineage's bundle"
    assert "| adherence | 0.91 | 0.88 to 0.94 | 256 | – |" in text
    made_by = "dinov2, weights abababababab, 224 × 224; reference cdcdcdcdcdcd"
    assert f"| feature_distance | 0.5 | 0.4 to 0.6 | 200 | {made_by} |" in text
    assert f"| KID | 0.25 | champion's 0.125, p 0.04 | 200 | {made_by} |" in text
    assert f"| CMMD | 0.25 | – | 200 | {made_by} |" in text
    assert "| energy per picture | 1.5 J at 30 W (RAPL, 1 package(s)) |" in text
    assert "| photographs | bar 0.6 |" in text
    assert "red wall" not in text, "captions stay where they can be forgotten"
    html = page(card)
    assert "a red wall &lt;b&gt;" in html
    assert html.count("data:image/png;base64,") == 1
    assert "<script" not in html
    assert "http" not in html


def test_energy_that_nobody_could_measure_is_said_to_be_so() -> None:
    why = "not measured: no processor energy counter"
    rows = metric_rows({"energy": {"joules": None, "watts": None, "source": why}})
    assert rows[1][:2] == ("energy per picture", why)
    assert len(metric_rows({})) == 1


@pytest.mark.integration
def test_a_long_card_fits_into_mlflow_and_says_what_it_leaves_out(card: Card) -> None:
    many = [card.filters[0], *((f"delivery {row}", "size", "keep 1") for row in range(400))]
    long = replace(card, filters=many)
    text = markdown(long)
    assert len(text) <= 5000
    assert "more (see the card's page)" in text
    assert "| adherence |" in text
    assert "delivery 399" in page(long)
    assert markdown(replace(card, about="x" * 9000)).endswith("…")
