"""`backdrop jobs …`: what runs, on this machine or on a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.settings import Settings
from orchestration.commands.options import AsJson, JobKey
from orchestration.screen import answer, words

jobs = typer.Typer(no_args_is_help=True, help="The line's jobs, on this machine or on a cluster.")


@jobs.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")] = 30,
    running: Annotated[bool, typer.Option("--running", help="Only those that have not ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """The newest first: what runs, what waits, how the others ended. Example: backdrop jobs list --running"""
    from orchestration.jobs_shown import show_jobs

    document = show_jobs(Settings.load(), words(as_json), limit, running)
    if as_json:
        answer(document)


@jobs.command()
def show(job: JobKey, as_json: AsJson = False) -> None:
    """All about one job, and the end of its log. Example: backdrop jobs show pretrained_dit"""
    from orchestration.jobs_shown import show_job

    document = show_job(Settings.load(), words(as_json), job)
    if as_json:
        answer(document)


@jobs.command()
def log(
    job: JobKey,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="How many of the last.")] = 50,
    rank: Annotated[int, typer.Option(min=0, help="Of a job on several nodes or in slices: of which one.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a job prints. Example: backdrop jobs log pretrained_dit --follow"""
    from orchestration.jobs_shown import show_log

    if follow and as_json:
        raise typer.BadParameter("a log that is followed is no document: leave --json or --follow out")
    document = show_log(Settings.load(), words(as_json), job, lines, rank, follow)
    if as_json:
        answer(document)


@jobs.command()
def cancel(job: JobKey, as_json: AsJson = False) -> None:
    """End one; it may save first, and its run is told that it failed. Example: backdrop jobs cancel pretrained_dit"""
    from orchestration.jobs_shown import cancel_job

    document = cancel_job(Settings.load(), words(as_json), job)
    if as_json:
        answer(document)


@jobs.command()
def reap(as_json: AsJson = False) -> None:
    """Delete the cluster's Jobs that no run wants any more. Example: backdrop jobs reap"""
    from orchestration.reaping import reap_now

    document = reap_now(Settings.load(), words(as_json))
    if as_json:
        answer(document)
