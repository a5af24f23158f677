"""The studio's pure parts: fields, frames, tasks, files, the shelf, the guard."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.studio import finishing
from deploy.studio.fields import Side, Task, parse_fields
from deploy.studio.finishing import NotKept, finish, paste, same
from deploy.studio.frames import Box, around, bring_back, look, matched, place, spread
from deploy.studio.guard import objection
from deploy.studio.limits import Limits
from deploy.studio.photographs import alpha_of, find_mask, fitted
from deploy.studio.refusal import Refusal
from deploy.studio.shelf import Shelf
from deploy.studio.tasks import Plan, margins_for, plan_for
from infra.images import decode, encode_png
from tests.deploy.studio.pictures import photograph, saved

LIMITS = Limits()
SIZE = 32


# ── fields ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fields_have_defaults_and_any_script_is_a_prompt() -> None:
    asked = parse_fields(Task.BACKGROUND, {"prompt": " 青い床、白い壁\n "}, LIMITS)
    assert asked.prompt == "青い床、白い壁"
    assert (asked.k, asked.format, asked.side) == (4, "png", Side.CHAMPION)
    assert parse_fields(Task.ERASE, {}, LIMITS).prompt
    both = parse_fields(Task.FILL, {"prompt": "x", "side": "both", "seed": "7", "k": "1"}, LIMITS)
    assert both.sides == ("champion", "challenger")
    assert (both.seed, both.k) == (7, 1)


@pytest.mark.parametrize(
    ("task", "form", "words"),
    [
        (Task.BACKGROUND, {}, "prompt is empty"),
        (Task.FILL, {"prompt": " \x00 "}, "prompt is empty"),
        (Task.BACKGROUND, {"prompt": "x" * 10_000}, "10,000 characters, 1,000 are allowed"),
        (Task.BACKGROUND, {"prompt": "x", "negative": "y" * 1001}, "negative has 1,001"),
        (Task.BACKGROUND, {"prompt": "x", "k": "5"}, "1 to 4"),
        (Task.BACKGROUND, {"prompt": "x", "k": "one"}, "1 to 4"),
        (Task.BACKGROUND, {"prompt": "x", "seed": "-1"}, "no whole number"),
        (Task.BACKGROUND, {"prompt": "x", "seed": str(2**64)}, "no whole number"),
        (Task.BACKGROUND, {"prompt": "x", "format": "jpeg"}, "format 'jpeg'"),
        (Task.BACKGROUND, {"prompt": "x", "sied": "1"}, "Did you mean 'side'"),
        (Task.BACKGROUND, {"prompt": "x", "ratio": "1:1"}, "Only Expand"),
        (Task.EXPAND, {}, "ratio or margins"),
        (Task.EXPAND, {"ratio": "0:1"}, "ratio '0:1'"),
        (Task.EXPAND, {"margins": "1,2,3"}, "no four"),
    ],
)
def test_a_wrong_field_is_refused_in_words(task: Task, form: dict[str, str], words: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_fields(task, form, LIMITS)
    assert refused.value.status == 422
    assert words in refused.value.what
    assert refused.value.remedy


# ── frames ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("height", "width"), [(150, 200), (31, 900), (10_000, 3), (20, 20), (1, 1)])
def test_any_shape_lies_whole_in_the_models_square(height: int, width: int) -> None:
    inner = place(height, width, SIZE)
    assert max(inner.height, inner.width) == SIZE
    assert min(inner.height, inner.width) >= 1
    assert inner.top + inner.height <= SIZE
    assert inner.left + inner.width <= SIZE
    image, keep = np.zeros((height, width, 3), np.uint8), np.ones((height, width), bool)
    part = Box(0, 0, height, width)
    seen = look(image, keep, part, SIZE, 0.999)
    assert seen.kept.sum() == inner.height * inner.width  # what is around it is to be painted
    assert bring_back(np.zeros((SIZE, SIZE, 3), np.uint8), seen, part).shape == (height, width, 3)


def test_a_small_hole_is_painted_at_more_than_the_whole_pictures_scale() -> None:
    hole = np.zeros((1000, 2000), bool)
    hole[10:60, 1950:2000] = True
    part = around(hole, SIZE)
    assert (part.height, part.width) == (100, 100)
    assert hole[part.slices].sum() == hole.sum()
    assert part.left + part.width <= 2000
    assert around(np.ones((50, 400), bool), SIZE) == Box(0, 0, 50, 400)
    with pytest.raises(ValueError, match="no hole"):
        around(np.zeros((4, 4), bool), SIZE)


def test_what_is_painted_over_does_not_show_through() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    keep = np.ones((64, 64), bool)
    keep[10:21, 10:21] = False
    seen = look(image, keep, Box(0, 0, 64, 64), SIZE, 0.999)
    small = ~np.asarray(seen.kept)
    assert small[5:11, 5:11].all()  # cells that the hole only touches belong to it
    assert small.sum() == 36


def test_a_cast_on_what_is_kept_is_taken_from_what_is_painted() -> None:
    image = np.full((SIZE, SIZE, 3), 100, np.uint8)
    keep = np.ones((SIZE, SIZE), bool)
    keep[8:24, 8:24] = False
    seen = look(image, keep, Box(0, 0, SIZE, SIZE), SIZE, 0.999)
    made = np.full((SIZE, SIZE, 3), 90, np.uint8)
    made[10:22, 10:22] = (200, 30, 30)
    moved = matched(made, seen)
    assert np.abs(moved[keep].astype(int) - 100).max() == 0
    assert np.abs(moved[15, 15].astype(int) - (210, 40, 40)).max() <= 1
    nothing = look(image, np.zeros_like(keep), Box(0, 0, SIZE, SIZE), SIZE, 0.999)
    assert matched(made, nothing) is made
    assert spread(np.zeros((1, 1, 3), np.float32), np.zeros((1, 1), np.float32)).shape == (1, 1, 3)


# ── tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan(task: Task, mask: np.ndarray | None = None, **form: str) -> Plan:
    image, _ = photograph()
    return plan_for(parse_fields(task, {"prompt": "a wall", **form}, LIMITS), image, mask, SIZE, LIMITS)


def test_what_each_task_keeps() -> None:
    image, product = photograph()
    assert np.array_equal(plan(Task.BACKGROUND, product).keep, product)
    assert np.array_equal(plan(Task.FILL, product).keep, ~product)
    wide = plan(Task.EXPAND, ratio="2:1")
    assert wide.keep.shape == (150, 300)
    assert wide.keep.sum() == image.shape[0] * image.shape[1]
    assert np.array_equal(wide.canvas[wide.keep].reshape(image.shape), image)
    assert plan(Task.EXPAND, margins="1,2,3,4").keep.shape == (156, 204)
    assert plan(Task.ERASE, np.ones_like(product)).part == Box(0, 0, 150, 200)
    for ratio in ((16, 9), (9, 16), (4, 3), (1, 1)):
        left, top, right, bottom = margins_for(ratio, 150, 200)
        assert abs((200 + left + right) / (150 + top + bottom) - ratio[0] / ratio[1]) < 0.02
        assert min(left + right, top + bottom) == 0


@pytest.mark.parametrize(
    ("task", "mask", "form", "words"),
    [
        (Task.BACKGROUND, np.zeros((150, 200), bool), {}, "mask is empty"),
        (Task.BACKGROUND, np.ones((150, 200), bool), {}, "covers everything"),
        (Task.FILL, None, {}, "needs a mask"),
        (Task.FILL, np.zeros((150, 200), bool), {}, "mask is empty"),
        (Task.FILL, np.ones((99, 200), bool), {}, "200×99 pixels, the photograph, upright, 200×150"),
        (Task.EXPAND, None, {"ratio": "4:3"}, "nothing to expand"),
        (Task.EXPAND, None, {"margins": "700,0,0,0"}, "more than 4 times"),
    ],
)
def test_a_mask_that_says_nothing_is_refused(
    task: Task, mask: np.ndarray | None, form: dict[str, str], words: str
) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        plan(task, mask, **form)
    assert refused.value.status == 422


def test_an_expanded_picture_has_a_limit_too() -> None:
    wide = parse_fields(Task.EXPAND, {"margins": "5000,0,0,0"}, LIMITS)
    with pytest.raises(Refusal, match=r"25\.9 megapixels"):
        plan_for(wide, np.zeros((3700, 2000, 3), np.uint8), None, SIZE, LIMITS)


# ── masks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_masks_are_found_scaled_and_read_from_alpha() -> None:
    image, product = photograph(400, 300)
    found = find_mask(encode_png(image), image, LIMITS)
    assert found.source == "automatic"
    assert (found.product & product).sum() / (found.product | product).sum() > 0.8
    half = product[::2, ::2]
    assert (fitted(half, 300, 400) != product).mean() < 0.01
    assert fitted(half, 300, 300) is half
    cut_out = saved(np.dstack([image, product.astype(np.uint8) * 255]), "PNG")
    assert np.array_equal(find_mask(cut_out, decode(cut_out), LIMITS).product, product)
    assert alpha_of(b"no picture", LIMITS) is None


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_kept_pixels_are_the_inputs_in_the_file(kind: str) -> None:
    image, product = photograph()
    one = plan(Task.BACKGROUND, product)
    seen = look(one.canvas, one.keep, one.part, SIZE, one.whole)
    made = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    done = finish(one, seen, made, kind)
    assert (done.format, done.violations) == (kind, 0)
    back = decode(done.data)
    assert np.array_equal(back[product], image[product])
    assert np.array_equal(back, paste(one, seen, made))
    assert not np.array_equal(back[~product], image[~product])
    assert not same(b"no picture", one)


def test_a_violated_pixel_is_counted_and_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    image, product = photograph()
    one = plan(Task.BACKGROUND, product)
    seen = look(one.canvas, one.keep, one.part, SIZE, one.whole)
    made = np.zeros((SIZE, SIZE, 3), np.uint8)

    def wrong(picture: np.ndarray) -> bytes:
        spoiled = picture.copy()
        spoiled[tuple(np.argwhere(product)[0])] ^= 1
        return encode_png(spoiled)

    monkeypatch.setitem(finishing.ENCODERS, "png", wrong)
    done = finish(one, seen, made, "png")
    assert (done.format, done.violations) == ("webp", 1)
    assert np.array_equal(decode(done.data)[product], image[product])
    monkeypatch.setitem(finishing.ENCODERS, "webp", wrong)
    with pytest.raises(NotKept):
        finish(one, seen, made, "png")


def test_the_shelf_is_bounded_in_bytes_and_time() -> None:
    now = [0.0]
    shelf = Shelf(100, 3, 10, lambda: now[0])
    ids = [shelf.put(bytes(40), "png") for _ in range(5)]
    assert shelf.held <= 100
    assert [shelf.get(one) is not None for one in ids] == [False, False, False, True, True]
    now[0] = 11
    assert shelf.get(ids[-1]) is None
    shelf.put(bytes(1000), "png")
    assert shelf.held == 1000
    for _ in range(5):
        shelf.put(b"x", "png")
    assert shelf.held == 3


# ── guard ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("headers", "cause"),
    [
        ({"host": "127.0.0.1:3001"}, None),
        ({"host": "localhost:3001", "origin": "http://localhost:3001", "sec-fetch-site": "same-origin"}, None),
        ({"host": "[::1]:3001"}, None),
        ({"host": "studio.local"}, None),
        ({"host": "rebound.example:3001"}, "host"),
        ({"host": "127.0.0.1.example"}, "host"),
        ({}, "host"),
        ({"host": "127.0.0.1:3001", "origin": "http://evil.example"}, "origin"),
        ({"host": "127.0.0.1:3001", "origin": "null"}, "origin"),
        ({"host": "127.0.0.1:3001", "origin": "http://127.0.0.1:3000"}, "origin"),
        ({"host": "127.0.0.1:3001", "sec-fetch-site": "cross-site"}, "origin"),
    ],
)
def test_foreign_pages_are_refused(headers: dict[str, str], cause: str | None) -> None:
    refused = objection("POST", headers, {"localhost", "studio.local"})
    assert (refused.cause if refused else None) == cause
    read = objection("GET", headers, {"localhost", "studio.local"})
    assert (read.cause if read else None) == (cause if cause == "host" else None)
