"""The sensor `alerts`: looks at everything, writes down what is new, and sends what is due."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.line import Line
from orchestration.alerts.causes import HOLDING, Pages, Seen

if TYPE_CHECKING:
    from infra.settings import Settings

CONFIGURED = bool(os.environ.get("BACKDROP_ALERT_WEBHOOK") or os.environ.get("BACKDROP_ALERT_EMAIL"))
NOWHERE = "nobody is told: set BACKDROP_ALERT_WEBHOOK or BACKDROP_ALERT_EMAIL (docs/runbook.md)"

Look = Callable[[Mapping[str, Any]], list[Seen]]


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING if CONFIGURED else dg.DefaultSensorStatus.STOPPED,
    description="Tells by webhook and e-mail what somebody has to know (docs/runbook.md). On where one is configured.",
)
def alerts(context: dg.SensorEvaluationContext, line: dg.ResourceParam[Line]) -> dg.SensorResult | dg.SkipReason:
    """One go. What a source has written down is never lost; one that does not answer is asked again next time.

    What is due is sent before anything is looked at: a source that takes its time keeps no message back.
    """
    from infra.notify import destinations
    from orchestration.alerts.telling import SECONDS, tell

    targets = destinations(line.settings)
    if not targets:
        return dg.SkipReason(NOWHERE)
    pages = pages_of(line.settings)
    with line.catalog.alerts_lock() as mine:
        if not mine:
            return dg.SkipReason("another one is at it")
        memory = json.loads(context.cursor or "{}")
        names = [target.name for target in targets]
        told = tell(line.catalog, targets, pages, lambda: datetime.now(UTC), SECONDS / 2)
        said, memory = notice(line, context.instance, pages, names, memory, datetime.now(UTC))
        there = [target for target in targets if target.name not in told.away]
        told += tell(line.catalog, there, pages, lambda: datetime.now(UTC), SECONDS / 2)
        said.append(str(told))
    return dg.SensorResult(skip_reason="; ".join(said), cursor=json.dumps(memory))


def notice(
    line: Line,
    instance: dg.DagsterInstance,
    pages: Pages,
    waiting: list[str],
    memory: Mapping[str, Any],
    now: datetime,
) -> tuple[list[str], dict[str, Any]]:
    """Looks at every source and writes down what began and what ended; what came of it, and what to remember.

    A source that fails is no reason to be silent about the others, and nothing of it is taken to have ended.
    """
    said, remembered, begun = [], dict(memory), 0
    for name, look in sources(line, instance, pages, now):
        try:
            seen = look(memory.get(name, {}))
        except Exception as error:
            what = str(getattr(error, "what", "") or f"{type(error).__name__}: {error}")
            said.append(f"{name} cannot be looked at ({what[:300]})")
            continue
        for one in seen:
            begun += line.catalog.begin_alerts(one.causes, waiting, now)
            if one.current is not None:
                line.catalog.end_alerts(one.scope, HOLDING, one.current, now)
            if one.memory:
                remembered[name] = dict(one.memory)
    return [f"{begun} new causes", *said], remembered


def sources(line: Line, instance: dg.DagsterInstance, pages: Pages, now: datetime) -> Iterator[tuple[str, Look]]:
    """Name → how to look, given what it remembered."""
    from deploy.registry import REGISTERED_NAMES
    from orchestration.alerts import budget, champion, checks, runs, studio

    models, settings, catalog = sorted(REGISTERED_NAMES.values()), line.settings, line.catalog
    yield "runs", lambda memory: [runs.failed_runs(instance, catalog, pages, memory, now)]
    yield "evaluation", lambda _: checks.report(instance, pages, now)
    yield "drift", lambda memory: checks.drift(instance, pages, memory, now)
    yield "ledger", lambda memory: [champion.refusals(catalog, models, pages, memory, now)]
    if settings.mlflow_uri:
        uri = settings.mlflow_uri
        yield "champion", lambda _: [champion.tainted(catalog, uri, models, pages, now)]
    yield "budget", lambda _: [budget.budget(line, instance, pages, now)]
    for url in filter(None, (part.strip() for part in (settings.studio_url or "").split(","))):
        yield f"studio {url}", lambda memory, url=url: studio.studio(studio.read(url), url, memory, now)  # type: ignore[misc]


def pages_of(settings: Settings) -> Pages:
    """Where people open things."""
    here = "" if settings.launcher == "kubernetes" else "http://127.0.0.1:3000"
    return Pages(
        dagster=(settings.dagster_page or here).rstrip("/"),
        mlflow=settings.mlflow_links,
        runbook=settings.runbook or "docs/runbook.md",
    )
