"""A check's own picture: of the answers that fail it, with what was asked and seen, and of nothing else."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from deploy.check_pictures import FAILING, Failure, failures_of, with_pictures
from deploy.checks import ACCURACIES
from deploy.compare import ENGINE, MEAN_COLOUR, TEACHER, score_all
from deploy.report import PhotographAnswers
from deploy.samples import Sample, to_sample
from evaluation.palette import PALETTE
from evaluation.photographs import Request, score_photograph
from infra.images import decode
from infra.jobs.program import JobContext
from infra.jobs.spec import EXAMPLES, Check
from infra.object_store import ObjectStore
from infra.tiles import SMALL_BYTES
from tests.deploy.conftest import SIZE, row
from training.editing import composite

COUNT = 12


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [to_sample(row(10 + k, True, True), SIZE) for k in range(COUNT)]


def answers_like_the_truth(samples: list[Sample]) -> dict[str, np.ndarray]:
    truth = np.stack([sample.image for sample in samples])
    return {ENGINE: truth.copy(), TEACHER: truth.copy(), MEAN_COLOUR: np.full_like(truth, 90)}


def found_in(
    samples: list[Sample], made: dict[str, np.ndarray], photographs: list[PhotographAnswers] | None = None
) -> dict[str, list[Failure]]:
    return failures_of(samples, made, score_all(samples, made), photographs or [])


def paint_wall(sample: Sample, made: np.ndarray, colour: str) -> None:
    wall = np.zeros((SIZE, SIZE), bool)
    wall[:16] = True
    made[wall & ~sample.product] = PALETTE[colour]


def shown(store: ObjectStore, name: str, found: dict[str, list[Failure]], **others: str) -> Check:
    job: JobContext[Any] = JobContext(cast(Any, None), store, "out", cast(Any, None))
    check = with_pictures(job, Check(name=name, passed=False), found, others)
    if key := check.pictures.get(check.failures_title):
        assert len(store.get(key)) <= SMALL_BYTES
        assert decode(store.get(key)).std() > 0
        assert set(job.shown[key]) <= {one.id for one in found[name]}
        assert len(job.shown[key]) == min(EXAMPLES, len({one.id for one in found[name]}))
    return check


def test_the_true_pictures_fail_nothing(samples: list[Sample], store: ObjectStore) -> None:
    found = found_in(samples, answers_like_the_truth(samples))
    assert found == {name: [] for name in (*ACCURACIES, "beats_baselines", "student_within_margin", "product_identity")}
    check = shown(store, "wall_colour", found, Worst="out/worst.png")
    assert (check.metadata, check.pictures) == ({FAILING: 0}, {})


def test_a_wall_of_another_colour_is_shown_on_its_own_check_alone(samples: list[Sample], store: ObjectStore) -> None:
    made = answers_like_the_truth(samples)
    for k in (3, 5):
        paint_wall(samples[k], made[ENGINE][k], "grey")
    found = found_in(samples, made)
    assert {name for name, failures in found.items() if failures} == {"wall_colour", "student_within_margin"}
    assert {one.id for one in found["wall_colour"]} == {samples[3].id, samples[5].id}
    for name in ("wall_colour", "student_within_margin"):
        assert [one.tile().label for one in found[name]] == ["wall: asked red, seen grey"] * 2
        check = shown(store, name, found)
        assert check.metadata[FAILING] == 2
        assert list(check.pictures) == [f"Failures of {name}"]
    assert not shown(store, "floor_colour", found).pictures


def test_the_worst_come_first_and_no_more_than_can_be_looked_at(samples: list[Sample], store: ObjectStore) -> None:
    made = answers_like_the_truth(samples)
    noise = np.random.default_rng(0).integers(0, 256, made[ENGINE].shape, dtype=np.uint8)
    made[ENGINE] = noise
    made[ENGINE][7] = made[MEAN_COLOUR][7] // 100  # the farthest from the truth
    found = found_in(samples, made)
    assert len(found["beats_baselines"]) == COUNT
    ranks = [one.rank for one in found["wall_colour"]]
    errors = score_all(samples, made)[ENGINE]["masked_l1"]
    assert -min(ranks)[0] == errors[[int(rank[1]) for rank in ranks]].max()
    for name in ("wall_colour", "beats_baselines"):
        assert shown(store, name, found).metadata[FAILING] == len(found[name]) > EXAMPLES
    assert "mean colour has" in found["beats_baselines"][0].tile().label


def test_lines_and_shadows_say_where_they_are(samples: list[Sample]) -> None:
    made = answers_like_the_truth(samples)
    made[ENGINE][0] = np.roll(samples[0].image, 6, axis=0)
    made[ENGINE][1] = samples[1].image[:, ::-1]
    found = found_in(samples, made)
    (line,) = [one for one in found["floor_line"] if one.id == samples[0].id]
    assert line.tile().label.startswith("floor line: asked 50% down, seen ")
    (shadow,) = [one for one in found["shadow_side"] if one.id == samples[1].id]
    assert shadow.tile().label == "shadow: asked right, seen left"


def test_photographs_say_which_colour_came_instead(samples: list[Sample], store: ObjectStore) -> None:
    photo, requests = samples[0], [Request("a red one", "red"), Request("a blue one", "blue")]

    def answered(*colours: str) -> PhotographAnswers:
        made = np.stack([np.full((SIZE, SIZE, 3), PALETTE[colour], np.uint8) for colour in colours])
        whole = composite(np.stack([photo.image] * 2), made, np.stack([photo.product] * 2))
        score = score_photograph(photo.image, photo.product, made, whole, requests)
        return PhotographAnswers(photo, requests, whole, score)

    found = failures_of([], {}, {}, [answered("red", "blue"), answered("red", "grey"), answered("red", "red")])
    labels = [one.tile().label for one in sorted(found["photographs"], key=lambda one: one.rank)]
    alike = "; the same for every caption"
    assert labels == [
        "border: asked blue, seen grey",
        f"border: asked blue, seen red{alike}",
        f"border: asked red, seen red{alike}",
    ]
    assert found.keys() == {"photographs", "product_identity"}
    assert shown(store, "photographs", found).metadata[FAILING] == 3


def test_a_changed_product_is_counted_and_shown(samples: list[Sample]) -> None:
    photo, requests = samples[0], [Request("a red one", "red")]
    whole = photo.image[None].copy()
    whole[0][photo.product] = 0
    score = score_photograph(photo.image, photo.product, whole, whole, requests)
    (failure,) = failures_of([], {}, {}, [PhotographAnswers(photo, requests, whole, score)])["product_identity"]
    pixels = int(photo.product.sum())
    assert failure.tile().label == f"{pixels} of the product's {pixels} pixels changed"


def test_what_is_judged_as_a_whole_shows_the_worst_answers_if_it_failed(store: ObjectStore) -> None:
    assert shown(store, "gate", {}, Worst="out/worst.png").pictures == {"Worst": "out/worst.png"}
    assert not shown(store, "engine_parity", {}, Worst="out/worst.png").pictures
    job: JobContext[Any] = JobContext(cast(Any, None), store, "out", cast(Any, None))
    for check in (Check(name="gate", passed=True), Check(name="wall_colour", passed=False, metadata={"note": "none"})):
        assert with_pictures(job, check, {}, {"Worst": "out/worst.png"}) == check
