"""The report's page and figures, and the captions for real photographs: pure, so no world is needed."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

from evaluation.palette import NAMES, PALETTE
from evaluation.photographs import requests_for, score_photograph, summarise
from evaluation.report.figures import cut_out, line_chart, picture, thin
from evaluation.report.page import CheckLine, Delivery, Example, Metric, Report, render
from infra.images import decode


def report(**changes: object) -> Report:
    values: dict[str, object] = {
        "title": "A <report>",
        "facts": [("Dataset version", "abc")],
        "backend": "ONNX Runtime 1.22",
        "columns": ["Engine", "Teacher"],
        "metrics": [Metric("Wall", "help", {"Engine": 0.5, "Teacher": None}, "≥ 90 %", False)],
        "checks": [CheckLine("wall_colour", False, True, "share 0.5")],
        "tiles": [("Wall", "50 %", "of 2")],
    }
    return Report(**{**values, **changes})  # type: ignore[arg-type]


def test_the_smallest_page() -> None:
    page = render(report())
    assert "A &lt;report&gt;" in page
    assert "50.0 %" in page
    assert "The engine stays a challenger" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_verdict_follows_the_checks() -> None:
    assert "All 1 checks passed" in render(report(checks=[CheckLine("a", True, True, "")]))
    assert "None of these keeps the engine" in render(report(checks=[CheckLine("a", False, False, "")]))


def test_pictures_and_deliveries_are_shown() -> None:
    uri = picture(np.zeros((8, 8, 3), np.uint8))
    page = render(
        report(
            examples=[Example("a box", [("product", uri), ("generated", uri)], [("wall", True), ("floor", False)])],
            deliveries=[Delivery("photos", 10, 7, [("decode", 2), ("text", 1)], unsure=["a.jpg (0.20)"])],
        )
    )
    assert page.count(uri) == 2
    assert "7 of 10 pictures kept" in page
    assert "width: 20.0%" in page
    assert "✗ floor" in page


def test_pictures_are_lossless_when_small_and_small_when_large() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    head, data = picture(image).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(decode(base64.b64decode(data)), image)
    assert picture(np.zeros((256, 256, 3), np.uint8)).startswith("data:image/jpeg")


def test_a_cut_out_keeps_the_product() -> None:
    image = np.full((32, 32, 3), 77, np.uint8)
    product = np.zeros((32, 32), bool)
    product[4:9] = True
    shown = cut_out(image, product)
    assert (shown[product] == 77).all()
    assert set(np.unique(shown[~product])) == {214, 240}


def test_charts_are_thin_and_survive_bad_numbers() -> None:
    points = [(float(step), 1.0 / (1 + step)) for step in range(5000)]
    assert len(thin(points)) == 240
    chart = line_chart({"loss": [*points, (5000.0, float("nan"))], "<split>": [(0.0, 2.0), (10.0, 1.0)]})
    assert chart.count("<polyline") == 2
    assert "&lt;split&gt;" in chart
    assert "nan" not in chart
    assert line_chart({"loss": []}) == ""
    assert "<polyline" in line_chart({"flat": [(1.0, 0.0)]})


def test_captions_are_settled_by_the_picture() -> None:
    requests = requests_for("ab" * 32, 4)
    assert requests == requests_for("ab" * 32, 4)
    assert requests != requests_for("cd" * 32, 4)
    assert len({request.colour for request in requests}) == 4
    assert all(request.colour in request.caption for request in requests)
    assert all("a orange" not in request.caption for k in range(50) for request in requests_for(str(k), 4))
    assert len(requests_for("x", len(NAMES))) == len(NAMES)
    with pytest.raises(ValueError, match="palette"):
        requests_for("x", len(NAMES) + 1)


def test_photographs_are_scored_by_their_border() -> None:
    requests = requests_for("ab" * 32, 3)
    product = np.zeros((32, 32), bool)
    product[10:22, 10:22] = True
    original = np.full((32, 32, 3), 90, np.uint8)
    generated = np.stack([np.full((32, 32, 3), PALETTE[request.colour], np.uint8) for request in requests])
    composites = np.where(product[..., None], original, generated)
    good = score_photograph(original, product, generated, composites, requests)
    assert good.matched == (True, True, True)
    assert good.identical
    assert good.different

    same = np.repeat(generated[:1], 3, axis=0)
    bad = score_photograph(original, product, same, same, requests)
    assert bad.matched == (True, False, False)
    assert not bad.identical
    assert not bad.different
    numbers = summarise([good, bad])
    assert numbers["border_colour"] == pytest.approx(4 / 6)
    assert numbers["different"] == 0.5
    assert summarise([]) == {"photographs": 0.0}
