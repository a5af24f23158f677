"""The plan as a pure function: who asks for a run, who holds it up, and what it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from assets.adoption import Pin
from orchestration.automation import plan as planning
from orchestration.automation.budget import Spent, frees_at, hours_of, paused
from orchestration.automation.causes import CANCELLED, DONE, FAILED, WAITING, Cause, Run, answered, backoff
from orchestration.automation.known import Batch, Champion, Deliveries, Made, Means, Training
from orchestration.automation.plan import plan_curation, plan_early, plan_weekly
from orchestration.automation.tags import MOST_BYTES, REASON, causes_in, listed, run_tags

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
MEANS = Means(NOW)
OLD, NEW = "a" * 64, "b" * 64


def ended(state: str, *causes: str, hours: float = 5, job: str = "retrain", partition: str = "") -> Run:
    return Run("0123456789", job, state, NOW - timedelta(hours=hours), causes, partition)


# ── deliveries ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_delivery_and_changed_filters_are_due_and_nothing_else() -> None:
    batches = (Batch("done", "v1", "v1"), Batch("landed"), Batch("half", None, "v1"), Batch("older", "v0", "v1"))
    found = plan_curation(Deliveries(batches), MEANS)
    assert found.why == "3 of 4 deliveries are due (2 new, 1 with other filters)"
    assert [request.partition for request in found.requests] == ["landed", "half", "older"]
    assert len({request.key for request in found.requests}) == 3
    tags = found.requests[2].tags(found.automation)
    assert tags["backdrop.reason"] == "older: its filters or its pictures have changed since"
    idle = plan_curation(Deliveries(batches[:1]), MEANS)
    assert (idle.requests, idle.why) == ((), "all 1 deliveries are filtered as the filters are now")


def test_a_delivery_is_not_asked_for_twice_and_a_failed_one_again_later() -> None:
    batches = (Batch("half", None, "v1"),)
    cause = plan_curation(Deliveries(batches), MEANS).requests[0].causes[0]
    waiting = plan_curation(Deliveries(batches, (ended(WAITING, job="ingest", partition="half"),)), MEANS)
    assert not waiting.requests
    assert "half: run 01234567 is at it" in waiting.text
    failed = ended(FAILED, cause, hours=0.5, job="ingest", partition="half")
    held = plan_curation(Deliveries(batches, (failed,)), MEANS)
    assert not held.requests
    assert "tried again from Sun 2026-11-22 03:30 UTC" in held.text
    again = plan_curation(Deliveries(batches, (replace(failed, at=NOW - timedelta(hours=2)),)), MEANS)
    assert again.requests[0].key != plan_curation(Deliveries(batches), MEANS).requests[0].key


def test_one_night_asks_for_so_many_runs_and_names_the_backfill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MOST", 2)
    found = plan_curation(Deliveries(tuple(Batch(f"d{k}") for k in range(5))), MEANS)
    assert len(found.requests) == 2
    assert "3 more the next nights; a backfill of filtered_shards takes them at once" in found.text


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────

STAGES = ("autoencoder", "pretrained_dit", "inpainting_finetune")


def models(new: int = 0, dataset: str = OLD, **changed: object) -> Training:
    """Everything made on OLD of 1,000 images; `new` images have come since."""
    known = Training(
        dataset=dataset,
        images=1000 + new,
        made=tuple(Made(stage, OLD, "mark") for stage in STAGES),
        recipes=dict.fromkeys(STAGES, "mark"),
        pins=tuple(Pin(stage, dataset, OLD, 1000, new) for stage in STAGES[:2]),
        champion=Champion("4", OLD, 1000, new),
    )
    return replace(known, **changed)  # type: ignore[arg-type]


def test_nothing_changed_retrains_nothing() -> None:
    assert plan_weekly(models(), MEANS).why == "nothing has changed since the models were made"
    assert (
        "0 % new images (0 beside 1,000) since the champion, version 4: below 20 %" in plan_early(models(), MEANS).why
    )


def test_a_few_new_images_wait_for_the_week_and_pretrained_models_stay() -> None:
    known = models(new=50, dataset=NEW)
    early, weekly = plan_early(known, MEANS), plan_weekly(known, MEANS)
    assert not early.requests
    assert "5 % new images (50 beside 1,000)" in early.why
    (request,) = weekly.requests
    assert "the dataset version is now bbbbbbbbbbbb: 1,050 images, 5 % new images" in request.reason
    assert "pretrained_dit stays with aaaaaaaaaaaa: 5 % new images (50 beside 1,000), below 20 %" in weekly.notes


def test_many_new_images_ask_at_once_and_once() -> None:
    known = models(new=300, dataset=NEW)
    (request,) = plan_early(known, MEANS).requests
    assert request.reason == "30 % new images (300 beside 1,000) since the champion, version 4"
    assert "pretrained_dit adopts bbbbbbbbbbbb: 30 % new images (300 beside 1,000)" in plan_early(known, MEANS).notes
    done = plan_early(replace(known, runs=(ended(DONE, *request.causes),)), MEANS)
    assert not done.requests
    assert "run 01234567 did so" in done.why
    further = models(new=420, dataset=NEW, runs=(ended(DONE, *request.causes),))
    assert plan_early(further, MEANS).requests, "another fifth is another cause"


def test_drift_and_code_ask_too() -> None:
    drifted = plan_early(models(new=30, dataset=NEW, drifted={"may": "resolution, aspect"}), MEANS)
    assert drifted.requests[0].reason == "may differs from the deliveries before it (resolution, aspect)"
    coded = models(recipes={**dict.fromkeys(STAGES, "mark"), "inpainting_finetune": "other"})
    assert plan_weekly(coded, MEANS).requests[0].reason == "code or configuration changed: inpainting_finetune"
    assert not plan_early(coded, MEANS).requests, "a change of code waits for the week or a person"


def test_a_takedown_asks_first_and_the_champion_is_called_tainted() -> None:
    why = "takedown 1: asked to"
    seen = tuple(Made(stage, OLD, "mark", why) for stage in STAGES)
    champion = Champion("4", OLD, 1000, 0, why)
    found = plan_early(models(dataset=NEW, made=seen, champion=champion), MEANS)
    assert found.requests[0].reason.startswith(
        "takedown 1: asked to: autoencoder, inpainting_finetune, pretrained_dit saw"
    )
    assert "the champion, version 4, is tainted (takedown 1: asked to); a retraining is due" in found.notes
    clean = plan_early(models(champion=champion), MEANS)
    assert not clean.requests
    assert "the newest models are clean" in clean.text


@pytest.mark.parametrize("asks", [plan_early, plan_weekly])
def test_never_two_at_once_and_never_over_the_budget(asks: object) -> None:
    known = models(new=300, dataset=NEW)
    busy = asks(replace(known, runs=(ended(WAITING),)), MEANS)  # type: ignore[operator]
    assert not busy.requests
    assert "but run 01234567 is at work since" in busy.why
    spent = (Spent(NOW - timedelta(days=6), 30.0), Spent(NOW - timedelta(days=1), 12.5))
    rest = asks(known, Means(NOW, 40.0, spent))  # type: ignore[operator]
    assert not rest.requests
    assert "42.5 GPU-hours were spent in the last seven days, and 40 are allowed" in rest.why
    assert "it goes on at Mon 2026-11-23 03:00 UTC" in rest.why
    stopped = asks(replace(known, blocked="a takedown was interrupted (x): run the same command again"), MEANS)  # type: ignore[operator]
    assert not stopped.requests
    assert "takedown was interrupted" in stopped.why


def test_a_week_that_failed_is_tried_again_in_the_same_tick_and_one_that_was_done_is_not() -> None:
    known = models(new=50, dataset=NEW)
    (request,) = plan_weekly(known, MEANS).requests
    assert not plan_weekly(replace(known, runs=(ended(DONE, *request.causes),)), MEANS).requests
    failed = plan_weekly(replace(known, runs=(ended(FAILED, *request.causes, hours=0.1),)), MEANS)
    assert failed.requests[0].key != request.key
    assert plan_weekly(replace(known, runs=()), Means(NOW + timedelta(days=7))).requests[0].key != request.key


def test_the_weeks_run_answers_what_would_have_asked_early() -> None:
    known = models(new=300, dataset=NEW, drifted={"may": "resolution"})
    (early,), (request,) = plan_early(known, MEANS).requests, plan_weekly(known, MEANS).requests
    assert set(early.causes) < set(request.causes)

    cancelled = plan_early(replace(known, runs=(ended(CANCELLED, *request.causes),)), MEANS)
    assert not cancelled.requests
    assert "was cancelled" in cancelled.why
    failed = plan_early(replace(known, runs=(ended(FAILED, *request.causes, hours=0.5),)), MEANS)
    assert not failed.requests
    assert "tried again from Sun 2026-11-22 03:30 UTC" in failed.why
    # The gate refused its engine, and one delivery more has come.
    grown = models(new=305, dataset="c" * 64, drifted=known.drifted, runs=(ended(DONE, *request.causes),))
    assert not plan_early(grown, MEANS).requests
    assert "did so" in plan_early(grown, MEANS).why


def test_the_week_asks_whatever_became_of_the_early_causes_and_takes_no_settled_one_along() -> None:
    known = models(new=300, dataset=NEW)
    (early,) = plan_early(known, MEANS).requests
    for state in (DONE, CANCELLED):
        (request,) = plan_weekly(replace(known, runs=(ended(state, *early.causes),)), MEANS).requests
        assert not set(early.causes) & set(request.causes), "or its failure would ask again for what was settled"
    failed = ended(FAILED, *early.causes, hours=0.2)
    (request,) = plan_weekly(replace(known, runs=(failed,)), MEANS).requests
    assert set(early.causes) < set(request.causes)
    (again,) = plan_weekly(replace(known, runs=(failed, ended(FAILED, *request.causes, hours=0.1))), MEANS).requests
    assert again.key != request.key
    assert not plan_weekly(replace(known, runs=(ended(DONE, *request.causes),)), MEANS).requests


def test_two_hundred_causes_fit_into_the_index_over_tags_and_are_found_again() -> None:
    drifted = {
        f"a-delivery-with-a-rather-long-name-{number:03}-0123abcd": "resolution, aspect" for number in range(200)
    }
    known = models(new=300, dataset=NEW, drifted=drifted)
    for found in (plan_early(known, MEANS), plan_weekly(known, MEANS)):
        (request,) = found.requests
        tags = request.tags(found.automation)
        assert max(len(value.encode()) for value in tags.values()) <= MOST_BYTES
        assert tags[REASON].startswith("30 % new images (300 beside 1,000) since the champion, version 4; a-delivery")
        assert tags[REASON].endswith(f"; and {201 - tags[REASON].count(';')} more")
        assert causes_in(tags) == request.causes
        done = replace(known, runs=(ended(DONE, *causes_in(tags)),))
        assert not plan_early(done, MEANS).requests
        june = plan_early(replace(done, drifted={**drifted, "june": "aspect"}), MEANS)
        assert june.requests[0].causes == ("drift:june",)


def test_a_long_reason_is_cut_between_its_characters() -> None:
    tags = run_tags("early_retraining", "願" * 5_000, ())
    assert tags[REASON] == "願" * 332 + "…"
    assert causes_in(tags) == ()
    assert listed(["one", "two"]) == "one; two"
    assert listed([]) == ""


# ── causes and budget ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_failures_back_off_by_doubling_and_a_cancelled_run_is_a_no() -> None:
    assert [backoff(n) for n in (0, 1, 2, 3)] == [timedelta(hours=h) for h in (0, 1, 2, 4)]
    assert backoff(50) == timedelta(days=7)
    cause = Cause("x", "because")
    said = answered(cause, [ended(FAILED, "x", hours=3), ended(FAILED, "x", hours=1)], NOW)
    assert said is not None
    assert "failed 2 times" in said
    assert answered(cause, [ended(FAILED, "x", hours=9), ended(FAILED, "x", hours=2.5)], NOW) is None
    assert "cancelled" in str(answered(cause, [ended(CANCELLED, "x", hours=900)], NOW))
    assert answered(cause, [ended(DONE, "y")], NOW) is None


def test_what_is_counted_and_when_it_frees() -> None:
    assert hours_of({"gpu_seconds": 7200.0, "seconds": 10.0}) == 2
    assert hours_of({"seconds": 1800.0, "ranks": 4}) == 2
    assert hours_of({"gpu_seconds": 7200.0, "reused": True}) == 0
    assert hours_of({}) == 0
    spent = [Spent(NOW - timedelta(days=8), 99.0), Spent(NOW - timedelta(days=2), 6.0), Spent(NOW, 5.0)]
    assert paused(spent, None, NOW) is None
    assert paused(spent, 11.1, NOW) is None
    assert frees_at(spent, 10.0, NOW) == NOW + timedelta(days=5)
    assert frees_at(spent, 5.0, NOW) == NOW + timedelta(days=7)
    assert "BACKDROP_GPU_HOURS_PER_WEEK" in str(paused([], 0.0, NOW))
