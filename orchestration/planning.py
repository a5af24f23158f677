"""`backdrop plan`: what each automation would do now, and why. Nothing is started and nothing is written."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.markup import escape

from infra.settings import Settings


def show_plan(settings: Settings, console: Console) -> dict[str, Any]:
    """The same decisions, in the same words, as the schedules and the sensor come to at their next look."""
    from orchestration.remembered import as_last_run
    from orchestration.services import services

    with services(settings, console) as environment:
        os.environ.update({**environment, **as_last_run(settings)})
        import dagster as dg

        from assets.line import Line
        from orchestration.automation import gather
        from orchestration.automation.budget import paused, total
        from orchestration.automation.plan import plan

        line = Line()
        with dg.DagsterInstance.get() as instance:
            means = gather.means(line, instance)
            decisions = plan(gather.deliveries(line, instance), gather.training(line, instance), means)
    budget = {"allowed": means.budget, "spent": None if means.budget is None else total(means.spent, means.now)}
    for decision in decisions:
        would = f"[green]would start {len(decision.requests):,}[/green]" if decision.requests else "[dim]waits[/dim]"
        console.print(f"[bold]{decision.automation}[/bold]  {would}")
        for text in (decision.why, *decision.notes):
            console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
        for request in decision.requests[:5] if decision.automation == "nightly_curation" else ():
            console.print(f"  {request.job}: {escape(request.reason)}", highlight=False, soft_wrap=True)
    if means.budget is not None:
        console.print(f"budget  {budget['spent']:.1f} of {means.budget:g} GPU-hours in seven days", highlight=False)
    rest = paused(means.spent, means.budget, means.now)
    return {"gpu_hours": budget | {"paused": rest}, "automations": [one.as_dict() for one in decisions]}
