"""What a plan is made from: plain facts, gathered by `gather` and invented by tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from assets.adoption import Pin, Policy
from orchestration.automation.budget import Spent
from orchestration.automation.causes import Run


@dataclass(frozen=True)
class Means:
    """What may be spent, and what was: of every automation."""

    now: datetime
    budget: float | None = None
    spent: tuple[Spent, ...] = ()


@dataclass(frozen=True)
class Batch:
    """A delivery of the mix. `has`: the data version of its filtered_shards, None before there are any; `wants`: the
    one that they would have now, None where raw_images is not there either."""

    name: str
    has: str | None = None
    wants: str | None = None

    @property
    def is_new(self) -> bool:
        return self.has is None or self.wants is None

    @property
    def is_due(self) -> bool:
        return self.is_new or self.has != self.wants


@dataclass(frozen=True)
class Deliveries:
    """What is known of the deliveries. `runs`: of the job `ingest`, those that wait and those of due deliveries."""

    batches: tuple[Batch, ...]
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Made:
    """A stage as it was last made. `recipe`: the mark of its sources and configuration, None where nobody wrote it."""

    asset: str
    dataset: str
    recipe: str | None = None
    withdrawn: str | None = None


@dataclass(frozen=True)
class Champion:
    """The engine that serves. `seen`: the images that its pretrained model saw, of dataset version `dataset`; `new`:
    how many there are beside them now; `tainted`: the takedowns that it has not heard of yet."""

    version: str
    dataset: str
    seen: int
    new: int
    tainted: str = ""


@dataclass(frozen=True)
class Training:
    """What is known of the models.

    `dataset`: the version that training_set would make now; `blocked`: why it cannot; `recipes`: each stage's mark as
    it is now; `drifted`: delivery that the champion's pretrained model has not seen → how it differs from those before;
    `runs`: of the job `retrain`, and those by hand that make a model now.
    """

    dataset: str
    images: int
    made: tuple[Made, ...] = ()
    recipes: Mapping[str, str] = field(default_factory=dict)
    pins: tuple[Pin, ...] = ()
    policy: Policy = field(default_factory=Policy)
    champion: Champion | None = None
    drifted: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    share: float = 0.2
    blocked: str = ""
