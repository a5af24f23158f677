"""One request, from its form to its answer: prepared by hand, answered by the engine, finished by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.registry import CHAMPION
from deploy.studio.desk import Desk
from deploy.studio.engines import Engines
from deploy.studio.fields import Asked, Task
from deploy.studio.finishing import Finished, NotKept, finish
from deploy.studio.frames import Seen, look
from deploy.studio.limits import Limits
from deploy.studio.metrics import Metrics
from deploy.studio.opened import Candidates, Opened
from deploy.studio.photographs import Mask, find_mask, fitted, grown, read_mask, read_photograph
from deploy.studio.refusal import Refusal
from deploy.studio.samples import Samples
from deploy.studio.shelf import Shelf
from deploy.studio.tasks import Plan, plan_for
from deploy.studio.uploads import Form
from infra.images import encode_png


@dataclass(frozen=True)
class Room:
    """What every request shares."""

    limits: Limits
    metrics: Metrics
    engines: Engines
    desk: Desk
    shelf: Shelf
    samples: Samples
    local: bool = True  # nobody but this machine reaches it


@dataclass(frozen=True)
class Prepared:
    """A request that may go to the engine."""

    asked: Asked
    plan: Plan
    mask: Mask | None


@dataclass(frozen=True)
class Answered:
    """What one engine made of it."""

    alias: str
    opened: Opened
    seen: Seen
    candidates: Candidates
    seconds: float


def ensure(room: Room, asked: Asked) -> None:
    """Opens what is asked for and is not open. Raises Refusal: it is not there, or cannot be opened."""
    for alias in asked.sides:
        room.engines.ensure(alias)


def prepare(room: Room, asked: Asked, form: Form) -> Prepared:
    """Decodes and checks. Raises Refusal: everything that can be wrong with a request's pictures is found here."""
    task = asked.task
    champion = room.engines.current(CHAMPION)
    data, own = _photograph(room, asked, form)
    photograph = read_photograph(data, room.limits)
    given = form.read("mask")
    if given is not None and task is Task.EXPAND:
        raise Refusal(422, "field", "Expand takes no mask: all of the photograph stays.", "Leave the mask out.")
    mask: Mask | None = None
    if given is not None:
        mask = Mask(fitted(read_mask(given, room.limits), *photograph.shape[:2]), "upload")
    elif task is not Task.EXPAND and own is not None:
        mask = Mask(read_mask(own, room.limits), "sample")
    elif task in (Task.BACKGROUND, Task.ERASE):
        mask = find_mask(data, photograph, room.limits)
        if not mask.product.any():
            raise Refusal(422, "mask", "No product was found in the photograph.", "Draw a mask around it.")
    if task is Task.ERASE and mask is not None and mask.source != "upload":
        mask = Mask(grown(mask.product), mask.source, mask.confidence)
    size = champion.size if champion is not None else 64
    return Prepared(asked, plan_for(asked, photograph, mask.product if mask else None, size, room.limits), mask)


def _photograph(room: Room, asked: Asked, form: Form) -> tuple[bytes | None, bytes | None]:
    """The photograph's bytes, and a sample's own mask."""
    data = form.read("photograph")
    if data is not None or not asked.sample:
        return data, None
    champion = room.engines.current(CHAMPION)
    found = room.samples.of(champion.dataset).get(asked.sample) if champion is not None else None
    if found is None:
        raise Refusal(422, "field", f"There is no sample {asked.sample[:40]!r}.", "GET /v1/samples lists them.")
    return found.image, found.mask


def answer(room: Room, prepared: Prepared) -> list[Answered]:
    """On the engine's thread: the wanted sides, one after the other. Raises Refusal (503) where an engine is gone."""
    asked, plan = prepared.asked, prepared.plan
    found = []
    for alias in asked.sides:
        with room.engines.lease(alias) as opened:
            began = time.monotonic()
            seen = look(plan.canvas, plan.keep, plan.part, opened.size, plan.whole)
            candidates = opened.answer(seen, asked.prompt, asked.negative, asked.seed, asked.k)
            found.append(Answered(alias, opened, seen, candidates, time.monotonic() - began))
    return found


def finished(room: Room, prepared: Prepared, answered: list[Answered]) -> list[dict[str, Any]]:
    """Files on the shelf, and what the answer says of them."""
    return [_side(room, prepared, one) for one in answered]


def _side(room: Room, prepared: Prepared, one: Answered) -> dict[str, Any]:
    began, candidates = time.monotonic(), one.candidates
    pictures = [
        {"rank": rank + 1, "seed": str(seed), "score": score, **_file(room, prepared, one, rank)}
        for rank, (seed, score) in enumerate(zip(candidates.seeds, candidates.scores, strict=True))
    ]
    return {
        "side": one.alias,
        **about(one.opened),
        "ranked_by": candidates.ranked_by,
        "candidates": pictures,
        "latency_ms": {"engine": _ms(one.seconds), "encode": _ms(time.monotonic() - began)},
    }


def _file(room: Room, prepared: Prepared, one: Answered, rank: int) -> dict[str, Any]:
    plan = prepared.plan
    try:
        done: Finished = finish(plan, one.seen, one.candidates.pictures[rank], prepared.asked.format)
    except NotKept:
        room.metrics.violations.inc(2)
        return {"picture": None, "pixels": {"identical": False, "kept": int(plan.keep.sum())}}
    if done.violations:
        room.metrics.violations.inc(done.violations)
    identity = room.shelf.put(done.data, done.format)
    room.metrics.shelf.set(room.shelf.held)
    return {
        "picture": f"/v1/pictures/{identity}.{done.format}",
        "format": done.format,
        "bytes": len(done.data),
        "pixels": {"identical": True, "kept": int(plan.keep.sum()), "encoded": done.violations + 1},
    }


def about(opened: Opened) -> dict[str, Any]:
    """Who answered."""
    return {
        "version": opened.version.version,
        "bundle": opened.version.bundle,
        "backend": opened.engine.backend,
        "fallback": opened.engine.fallback,
    }


def describe(prepared: Prepared, answers: list[dict[str, Any]], latency: Mapping[str, float]) -> dict[str, Any]:
    """The answer's JSON. A seed is a string: a script's numbers do not hold all of them."""
    asked, plan, mask = prepared.asked, prepared.plan, prepared.mask
    return {
        "task": str(asked.task),
        "prompt": asked.prompt,
        "seed": str(asked.seed),
        "width": plan.keep.shape[1],
        "height": plan.keep.shape[0],
        "format": asked.format,
        "mask": None if mask is None else _mask(mask),
        "answers": answers,
        "latency_ms": {stage: _ms(seconds) for stage, seconds in latency.items()},
    }


def _mask(mask: Mask) -> dict[str, Any]:
    confidence = None if mask.confidence is None else round(mask.confidence, 3)
    return {"from": mask.source, "share": round(mask.share, 4), "confidence": confidence}


def make_mask(room: Room, form: Form) -> tuple[bytes, Mask]:
    """A PNG of the product in the form's photograph, and the mask it shows. Raises Refusal."""
    for name in form.fields:
        if name not in ("sample", "task"):
            raise Refusal(422, "field", f"A mask takes no field '{name[:40]}'.", "Give photograph or sample, and task.")
    asked = Asked(Task.BACKGROUND, "", sample=form.fields.get("sample", "").strip())
    data, own = _photograph(room, asked, form)
    if own is not None:
        mask = Mask(read_mask(own, room.limits), "sample")
    else:
        mask = find_mask(data, read_photograph(data, room.limits), room.limits)
    if form.fields.get("task", "").strip() == Task.ERASE:
        mask = Mask(grown(mask.product), mask.source, mask.confidence)
    return encode_png(mask.product.astype("uint8") * 255), mask


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
