"""The studio's HTTP interface: thin, every decision is made elsewhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from deploy.registry import CHALLENGER, CHAMPION
from deploy.studio import work
from deploy.studio.desk import Place
from deploy.studio.engines import WHAT_TO_DO
from deploy.studio.fields import Task, parse_fields
from deploy.studio.finishing import MEDIA
from deploy.studio.guard import Guard
from deploy.studio.refusal import HungUp, Refusal
from deploy.studio.uploads import read_form
from deploy.studio.work import Room

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CLOSED = 499  # nginx's number for a client that went away; nobody reads it but the metrics

Handler = Callable[[Request, Place], Awaitable[Response]]


def make_app(room: Room, names: Iterable[str] = (), *, poll_seconds: float = 2.0) -> ASGIApp:
    """The application; the registry is watched while it runs. `names`: host names that it answers to."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        room.engines.start(poll_seconds)
        yield
        room.desk.close()
        await asyncio.to_thread(room.engines.stop)

    # FastAPI's own pages of documentation fetch scripts from elsewhere.
    app = FastAPI(title="Backdrop studio", lifespan=running, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(HTTPException, _plain_words)
    _pages(app)
    _facts(app, room)
    for task in Task:
        app.add_api_route(f"/v1/{task}", _posted(room, str(task), partial(_generate, room, task)), methods=["POST"])
    app.add_api_route("/v1/mask", _posted(room, "mask", partial(_mask, room)), methods=["POST"])
    return Guard(app, names)


def _pages(app: FastAPI) -> None:
    for file in sorted(PAGE.iterdir()):
        if file.suffix in PAGE_TYPES:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            app.add_api_route(path, _file(file.read_bytes(), PAGE_TYPES[file.suffix]), methods=["GET"])


def _file(content: bytes, media: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(content, media_type=media, headers={"Cache-Control": "no-cache"})

    return send


def _facts(app: FastAPI, room: Room) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        stuck = room.desk.stuck
        return JSONResponse({"status": "the engine does not return" if stuck else "ok"}, 503 if stuck else 200)

    @app.get("/readyz")
    async def readyz() -> Response:
        if room.engines.current(CHAMPION) is None:
            return JSONResponse({"status": room.engines.problem, "remedy": WHAT_TO_DO}, 503)
        return JSONResponse({"status": room.engines.problem or "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        _gauge(room)
        return Response(room.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/status")
    async def status() -> Response:
        return JSONResponse(_status(room))

    @app.get("/v1/samples")
    async def samples() -> Response:
        found = await room.desk.by_hand(lambda: _samples(room))
        return JSONResponse(
            [
                {
                    "id": one.id,
                    "caption": one.caption,
                    "width": one.width,
                    "height": one.height,
                    "picture": f"/v1/samples/{one.id}",
                    "mask": f"/v1/samples/{one.id}/mask",
                }
                for one in found.values()
            ]
        )

    @app.get("/v1/samples/{identity}")
    async def sample(identity: str) -> Response:
        found = (await room.desk.by_hand(lambda: _samples(room))).get(identity)
        return _missing("sample") if found is None else Response(found.image, media_type=f"image/{found.format}")

    @app.get("/v1/samples/{identity}/mask")
    async def sample_mask(identity: str) -> Response:
        found = (await room.desk.by_hand(lambda: _samples(room))).get(identity)
        return _missing("sample") if found is None else Response(found.mask, media_type="image/png")

    @app.get("/v1/pictures/{name}")
    async def picture(name: str) -> Response:
        found = room.shelf.get(name.partition(".")[0])
        if found is None:
            return _missing("picture", "Pictures are kept for a while only: generate it again, with the same seed.")
        return Response(found.data, media_type=MEDIA[found.format], headers={"Cache-Control": "private, no-store"})


def _samples(room: Room) -> Any:
    champion = room.engines.current(CHAMPION)
    return {} if champion is None else room.samples.of(champion.dataset)


def _missing(what: str, remedy: str = "") -> Response:
    return JSONResponse(Refusal(404, "missing", f"There is no such {what} (any more).", remedy).body(), 404)


def _gauge(room: Room) -> None:
    for alias in (CHAMPION, CHALLENGER):
        opened = room.engines.current(alias)
        room.metrics.version.labels(alias).set(int(opened.version.version) if opened is not None else 0)
    room.metrics.tainted.set(1 if room.engines.taint else 0)
    room.metrics.shelf.set(room.shelf.held)


def _status(room: Room) -> dict[str, Any]:
    champion, challenger = room.engines.current(CHAMPION), room.engines.known.get(CHALLENGER)
    limits = room.limits
    found: dict[str, Any] = {
        "local": room.local,
        "ready": champion is not None,
        "problem": room.engines.problem,
        "remedy": "" if champion is not None else WHAT_TO_DO,
        "champion": None,
        "challenger": None,
        "limits": {
            "upload_bytes": limits.upload_bytes,
            "pixels": limits.pixels,
            "prompt": limits.prompt,
            "candidates": limits.candidates,
        },
    }
    if champion is not None:
        found["champion"] = {
            **work.about(champion),
            "size": champion.size,
            "tainted": room.engines.taint,
            "reward": champion.reward or None,
        }
    if challenger is not None and (champion is None or champion.version.bundle != challenger.bundle):
        found["challenger"] = {"version": challenger.version, "bundle": challenger.bundle}
    return found


def _posted(room: Room, task: str, handle: Handler) -> Callable[[Request], Awaitable[Response]]:
    """`handle` with a place in the room, and every way that a request may end counted."""

    async def post(request: Request) -> Response:
        began = time.monotonic()
        answer = await _handled(room, task, handle, request)
        room.metrics.requests.labels(task, str(answer.status_code)).inc()
        room.metrics.seconds.labels(task).observe(time.monotonic() - began)
        return answer

    return post


async def _handled(room: Room, task: str, handle: Handler, request: Request) -> Response:
    try:
        place = room.desk.enter()
        try:
            return await handle(request, place)
        finally:
            place.leave()
    except Refusal as refused:
        room.metrics.rejected.labels(refused.cause).inc()
        return JSONResponse(refused.body(), refused.status, refused.headers)
    except HungUp:
        room.metrics.hung_up.inc()
        return Response(status_code=CLOSED)
    except Exception:
        log.exception("%s failed", task)
        room.metrics.engine_errors.inc()
        return JSONResponse(Refusal(500, "fault", "The studio failed; its log says how.").body(), 500)


async def _generate(room: Room, task: Task, request: Request, place: Place) -> Response:
    began = time.monotonic()
    form = await read_form(request, room.limits)
    asked = parse_fields(task, form.fields, room.limits)
    if CHALLENGER in asked.sides:
        await room.desk.by_opener(lambda: work.ensure(room, asked))
    else:
        work.ensure(room, asked)
    prepared = await room.desk.by_hand(lambda: work.prepare(room, asked, form))
    place.claim(prepared.plan.pixels)
    ready = time.monotonic()
    gone = asyncio.create_task(_gone(request))
    try:
        answered = await room.desk.by_engine(lambda: work.answer(room, prepared), place, gone)
        back = time.monotonic()
        answers = await room.desk.by_hand(lambda: work.finished(room, prepared, answered))
    finally:
        gone.cancel()
    end = time.monotonic()
    engine = sum(one.seconds for one in answered)
    latency = {"upload": ready - began, "queue": back - ready - engine, "engine": engine, "encode": end - back}
    for stage, seconds in latency.items():
        room.metrics.stage.labels(stage).observe(max(0.0, seconds))
    return JSONResponse(work.describe(prepared, answers, latency | {"total": end - began}))


async def _mask(room: Room, request: Request, _place: Place) -> Response:
    form = await read_form(request, room.limits)
    png, mask = await room.desk.by_hand(lambda: work.make_mask(room, form))
    headers = {"Mask-From": mask.source, "Mask-Share": f"{mask.share:.4f}"}
    if mask.confidence is not None:
        headers["Mask-Confidence"] = f"{mask.confidence:.3f}"
    return Response(png, media_type="image/png", headers=headers)


async def _gone(request: Request) -> None:
    """Done when the client is; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _plain_words(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "There is no such page.", 405: "This address does not take that method."}
    return JSONResponse(Refusal(status, "address", words.get(status, str(error))).body(), status)
