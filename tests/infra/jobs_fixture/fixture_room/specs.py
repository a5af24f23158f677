"""Specs of the fixture room."""

from typing import Literal, Self

from infra.jobs.spec import JobSpec


class CountSpec(JobSpec):
    steps: int = 3
    pause_s: float = 0.0
    chunk: int = 1
    """Log lines at each step."""


class FailSpec(JobSpec):
    how: Literal[
        "configuration",
        "exception",
        "silent",
        "kill",
        "changed result",
        "disk",
        "forgotten worker",
        "forgotten fork",
        "hangs at exit",
        "service",
    ]


class TeamSpec(JobSpec):
    """Ranks that wait for each other; `dies` ends badly, all others wait for `pause_s`."""

    ranks: int
    pause_s: float = 0.0
    dies: int | None = None

    @property
    def processes(self) -> int:
        return self.ranks


class TallySpec(JobSpec):
    """Ranks on several nodes, started from outside; the last one dies at `stops_at`."""

    steps: int = 3
    ranks: int = 1
    pause_s: float = 0.0
    stops_at: int = -1


class PartSpec(JobSpec):
    """A job that many processes share."""

    part: int = 0
    wrong: tuple[int, ...] = ()

    def sliced(self, index: int, count: int) -> Self:
        return self.model_copy(update={"part": index, "output": f"{self.output}/parts/{index}"})
