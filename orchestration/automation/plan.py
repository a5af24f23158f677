"""The plan: from what is known to what each automation would do now, and why. Pure: schedules, sensors and the dry run
all ask here, so that they can never disagree.

    budget spent? ─► something at work? ─► causes ─► those not answered yet ─► requests
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from assets.adoption import choose, new_images, percent, reaches
from assets.versions import short
from infra.files import canonical_json, sha256_bytes
from orchestration.automation.budget import clock, paused
from orchestration.automation.causes import WAITING, Cause, Run, answered, attempt, settled
from orchestration.automation.known import Deliveries, Means, Training
from orchestration.automation.tags import listed, run_tags

CURATION, WEEKLY, EARLY = "nightly_curation", "weekly_retraining", "early_retraining"
MOST = 500
"""Runs that one night asks for: the daemon starts them one by one. A backfill takes more at once."""


@dataclass(frozen=True)
class Request:
    """A run that is asked for."""

    job: str
    key: str
    reason: str
    causes: tuple[str, ...]
    partition: str | None = None

    def tags(self, automation: str) -> dict[str, str]:
        return run_tags(automation, self.reason, self.causes)


@dataclass(frozen=True)
class Decision:
    """What one automation would do: its requests, or none; `why` either way."""

    automation: str
    why: str
    requests: tuple[Request, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def text(self) -> str:
        return "\n".join([self.why, *self.notes])

    def as_dict(self) -> dict[str, Any]:
        asked = [{"job": one.job, "partition": one.partition, "reason": one.reason} for one in self.requests]
        return {
            "automation": self.automation,
            "would_run": bool(self.requests),
            "why": self.why,
            "notes": list(self.notes),
            "requests": asked,
        }


# ── deliveries ────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_curation(known: Deliveries, means: Means) -> Decision:
    """Each night: a run for every delivery that is not filtered yet, or was filtered by other filters than today's."""
    due = [batch for batch in known.batches if batch.is_due]
    if not due:
        return Decision(CURATION, f"all {len(known.batches):,} deliveries are filtered as the filters are now")
    count = f"{len(due):,} of {len(known.batches):,} deliveries are due"
    if rest := paused(means.spent, means.budget, means.now):
        return Decision(CURATION, f"{count}, but {rest}")
    waiting = {run.partition: run for run in known.runs if run.state == WAITING and run.partition}
    runs = _by_cause(known.runs)
    requests: list[Request] = []
    held: list[str] = []
    for batch in due:
        why = "the delivery is new" if batch.is_new else "its filters or its pictures have changed since"
        cause = Cause(f"curate:{batch.name}:{short(batch.wants or 'new')}", why)
        mine = runs.get(cause.key, [])
        if batch.name in waiting:
            held.append(f"{batch.name}: {waiting[batch.name].name} is at it")
        elif since := answered(cause, mine, means.now):
            held.append(f"{batch.name}: {since}")
        elif len(requests) < MOST:
            key = f"{cause.key}:{len(mine)}"
            requests.append(Request("ingest", key, f"{batch.name}: {why}", (cause.key,), batch.name))
    left = len(due) - len(requests) - len(held)
    notes = _some(held) + (
        [f"{left:,} more the next nights; a backfill of filtered_shards takes them at once"] * (left > 0)
    )
    new = sum(batch.is_new for batch in due)
    said = f"{count} ({new:,} new, {len(due) - new:,} with other filters)"
    return Decision(CURATION, said if requests else f"{said}, and none is asked for now", tuple(requests), tuple(notes))


def _by_cause(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        for key in run.causes:
            found.setdefault(key, []).append(run)
    return found


def _some(lines: Sequence[str], most: int = 5) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most:,} more"] if len(lines) > most else [])]


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_weekly(known: Training, means: Means) -> Decision:
    """Each week: a retraining if anything has changed since the models were made."""
    changed = changes(known)
    if not changed and not known.blocked:
        return Decision(WEEKLY, "nothing has changed since the models were made", notes=_taint(known))
    # The week is in the key: what failed last week is tried again this week, for the same reason.
    year, week, _ = means.now.isocalendar()
    now = _hash([known.dataset, dict(known.recipes)])
    early = early_causes(known)
    cause = Cause(f"week:{year}-{week:02}:{now}", listed([one.why for one in early] or changed))
    # The same run answers what would have asked early, or that would start it again when it is cancelled.
    along = [one.key for one in early if not settled(one, known.runs)]
    return _retrain(WEEKLY, [cause], known, means, along)


def plan_early(known: Training, means: Means) -> Decision:
    """At any time: a retraining that does not wait for the week's, when a takedown, new data or drift asks for it."""
    if known.champion is None and not known.made:
        return Decision(EARLY, "no model was made yet: the first training is the weekly schedule's, or a person's")
    causes = early_causes(known)
    if causes and not known.blocked and not changes(known):
        why = listed([cause.why for cause in causes])
        said = "but the newest models have learned that already; what holds their engine back is on promotion's page"
        return Decision(EARLY, f"{why}, {said}", notes=_taint(known))
    if causes:
        return _retrain(EARLY, causes, known, means)
    champion = known.champion
    said = f"below {percent(known.share)}, no drift, no takedown"
    if champion is None:
        return Decision(EARLY, "there is no champion yet, and no model saw what was taken down since")
    grown = f"{new_images(champion.new, champion.seen)} since the champion, version {champion.version}"
    return Decision(EARLY, f"{grown}: {said}", notes=_taint(known))


def early_causes(known: Training) -> list[Cause]:
    """What asks for a retraining before its week, the most urgent first."""
    causes = []
    withdrawn = {made.dataset: made.withdrawn for made in known.made if made.withdrawn}
    if withdrawn:
        stages = sorted(made.asset for made in known.made if made.withdrawn)
        why = "; ".join(sorted({str(reason) for reason in withdrawn.values()}))
        causes.append(
            Cause(f"takedown:{_hash(sorted(withdrawn))}", f"{why}: {', '.join(stages)} saw what was taken down")
        )
    champion = known.champion
    if champion is not None and reaches(champion.new, champion.seen, known.share):
        # One request for every further share: a champion that no challenger beats is not retrained for every delivery.
        step = int(champion.new / champion.seen / known.share + 1e-9) if champion.seen else 0
        why = f"{new_images(champion.new, champion.seen)} since the champion, version {champion.version}"
        causes.append(Cause(f"data:{short(champion.dataset)}:{step}", why))
    for delivery, what in sorted(known.drifted.items()):
        causes.append(Cause(f"drift:{delivery}", f"{delivery} differs from the deliveries before it ({what})"))
    return causes


def changes(known: Training) -> list[str]:
    """What is otherwise than when the stages were last made; empty where a retraining would make nothing."""
    made = {one.asset: one for one in known.made}
    found = []
    if missing := sorted(set(known.recipes) - set(made)):
        found.append(f"not made yet: {', '.join(missing)}")
    if altered := sorted(name for name, mark in known.recipes.items() if name in made and made[name].recipe != mark):
        found.append(f"code or configuration changed: {', '.join(altered)}")
    pinned = {pin.asset for pin in known.pins}
    behind = [one for one in known.made if one.asset not in pinned and one.dataset != known.dataset]
    moving = [pin.asset for pin in known.pins if pin.pinned and choose(pin, known.policy).version != pin.pinned]
    if behind or moving:
        grown = max(known.pins, key=lambda pin: pin.new, default=None)
        size = f", {new_images(grown.new, grown.seen)}" if grown and grown.pinned else ""
        found.append(f"the dataset version is now {short(known.dataset)}: {known.images:,} images{size}")
    return found


def _retrain(
    automation: str, causes: Sequence[Cause], known: Training, means: Means, along: Sequence[str] = ()
) -> Decision:
    """A run for those of the causes that nobody has answered, unless the budget or a run is in the way. `along`: keys
    of causes that do not ask for it and that it answers too."""
    why = listed([cause.why for cause in causes])
    if known.blocked:
        return Decision(automation, f"{why or 'a retraining is due'}, but {known.blocked}")
    if rest := paused(means.spent, means.budget, means.now):
        return Decision(automation, f"{why}, but {rest}")
    for run in known.runs:
        if run.state == WAITING:
            return Decision(automation, f"{why}, but {run.name} is at work since {clock(run.at)}")
    since = {cause.key: answered(cause, known.runs, means.now) for cause in causes}
    if causes[0].key.startswith("week:"):
        since = {key: said for key, said in since.items() if said and "failed" not in said}
    open_causes = [cause for cause in causes if not since.get(cause.key)]
    if not open_causes:
        return Decision(automation, listed([f"{c.why}: {since[c.key]}" for c in causes]), notes=_taint(known))
    keys = (*(cause.key for cause in open_causes), *along)
    run_key = f"{_hash(sorted(keys))}:{attempt(keys, known.runs)}"
    reason = listed([cause.why for cause in open_causes])
    request = Request("retrain", run_key, reason, keys)
    return Decision(automation, reason, (request,), (*_adoptions(known), *_taint(known)))


def _adoptions(known: Training) -> list[str]:
    return [f"{pin.asset} {choose(pin, known.policy).why}" for pin in known.pins]


def _taint(known: Training) -> tuple[str, ...]:
    champion = known.champion
    if champion is None or not champion.tainted:
        return ()
    clean = not any(made.withdrawn for made in known.made)
    what = (
        "the newest models are clean: what holds their engine back is on promotion's page"
        if clean
        else "a retraining is due"
    )
    return (f"the champion, version {champion.version}, is tainted ({champion.tainted}); {what}",)


def _hash(value: Any) -> str:
    return short(sha256_bytes(canonical_json(value)))


def plan(deliveries: Deliveries, training: Training, means: Means) -> list[Decision]:
    """What each would do now, in the order in which the line goes."""
    return [plan_curation(deliveries, means), plan_weekly(training, means), plan_early(training, means)]
