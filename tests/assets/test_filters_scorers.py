"""Model scores from a real ONNX file and a real HTTP server."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from assets.curation.filters import build_filters, endpoint_scorer
from assets.curation.filters.base import DROP, KEEP, NOT_SCORED, Picture
from assets.curation.filters.scorers import ScorerFilter, model_input
from assets.curation.filters.settings import FilterSection, OpenClipModel, ScorerSection
from infra.errors import BackdropError, ServiceError
from infra.images import decode

DARK, LIGHT = (np.full((40, 60, 3), level, np.uint8) for level in (30, 220))
PLAIN: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def picture(pixels: np.ndarray, *captions: str) -> Picture:
    return Picture("0", pixels, captions)


def save(path: Path, nodes: list[Any], inputs: list[Any], shape: list[int | None]) -> str:
    output = helper.make_tensor_value_info("score", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "scorer", inputs, [output])
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)
    return str(path)


@pytest.fixture
def brightness(tmp_path: Path) -> str:
    """Scores the mean of the picture, 0 … 1."""
    image = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, 32, 32])
    return save(
        tmp_path / "mean.onnx", [helper.make_node("ReduceMean", ["pixels"], ["score"], keepdims=0)], [image], []
    )


@pytest.fixture
def wording(tmp_path: Path) -> str:
    """Scores 0.9 for the caption "a light wall" plus nothing of the picture, 0.1 for any other."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "s", "s"])
    text = helper.make_tensor_value_info("text", TensorProto.STRING, [1])
    nodes = [
        helper.make_node(
            "LabelEncoder", ["text"], ["said"], domain="ai.onnx.ml",
            keys_strings=["a light wall"], values_floats=[0.9], default_float=0.1,
        ),
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "mean"], ["nothing"]),
        helper.make_node("Add", ["said", "nothing"], ["score"]),
    ]  # fmt: skip
    return save(tmp_path / "text.onnx", nodes, [image, text], [1])


def test_without_a_model_nothing_is_called_kept() -> None:
    found = {check.name: check.judge(picture(DARK, "a wall")) for check in build_filters(FilterSection(), 16)[-3:]}
    assert {name: judgement.decision for name, judgement in found.items()} == dict.fromkeys(
        ("nsfw", "alignment", "aesthetics"), NOT_SCORED
    )
    assert all(judgement.reason == "not scored: no model is configured" for judgement in found.values())


def test_an_onnx_file_scores_pictures_on_both_sides_of_the_threshold(brightness: str) -> None:
    section = ScorerSection(onnx=brightness, threshold=0.5, **PLAIN)
    nsfw, aesthetics = ScorerFilter("nsfw", section, True), ScorerFilter("aesthetics", section, False)
    assert [nsfw.judge(picture(pixels)).decision for pixels in (DARK, LIGHT)] == [KEEP, DROP]
    assert [aesthetics.judge(picture(pixels)).decision for pixels in (DARK, LIGHT)] == [DROP, KEEP]
    found = nsfw.judge(picture(LIGHT))
    assert found.score == pytest.approx(220 / 255, abs=1e-3)
    assert found.reason == "nsfw: 0.863 is above 0.5"
    assert brightness in found.version


def test_alignment_takes_the_best_caption_and_needs_one(wording: str) -> None:
    check = ScorerFilter("alignment", ScorerSection(onnx=wording, threshold=0.5), False, needs_caption=True)
    assert check.judge(picture(LIGHT, "a dog", "a light wall")).score == pytest.approx(0.9)
    assert check.judge(picture(LIGHT, "a dog")).decision == DROP
    assert check.judge(picture(LIGHT, " ")).reason == "not scored: there is no caption to compare with"


def test_model_input_is_clips() -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = (255, 0, 0)
    given = model_input(pixels, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (given.shape, given.dtype) == ((1, 3, 8, 8), np.float32)
    assert given[0, 0].min() == 1
    assert given[0, 1:].max() == -1


def test_models_that_cannot_be_used_say_why(brightness: str, tmp_path: Path) -> None:
    def refusal(**values: Any) -> str:
        with pytest.raises(BackdropError) as caught:
            ScorerFilter("nsfw", ScorerSection(threshold=0.5, **values), True).judge(picture(DARK))
        return str(caught.value)

    (tmp_path / "page.onnx").write_text("<html>")
    assert "there is no model at" in refusal(onnx=str(tmp_path / "gone.onnx"))
    assert "no ONNX model" in refusal(onnx=str(tmp_path / "page.onnx"))
    assert "`output` asks for number 3" in refusal(onnx=brightness, output=3)
    assert "no http or https address" in refusal(endpoint="file:///etc/hostname")
    with pytest.raises(ValueError, match="give one of"):
        ScorerSection(onnx=brightness, endpoint="http://127.0.0.1", threshold=1)
    if not _has_open_clip():
        model = OpenClipModel(architecture="ViT-B-32", checkpoint=str(tmp_path / "weights.pt"))
        assert "open_clip_torch" in refusal(open_clip=model)


def _has_open_clip() -> bool:
    import importlib.util

    return importlib.util.find_spec("open_clip") is not None


def test_open_clip_scores_with_its_own_weights(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed: its back end is not tried")
    import torch

    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-32", pretrained=None).state_dict(), tmp_path / "weights.pt")
    model = OpenClipModel(architecture="ViT-B-32", checkpoint=str(tmp_path / "weights.pt"))
    check = ScorerFilter("alignment", ScorerSection(open_clip=model, threshold=-2), False, needs_caption=True)
    scores = [check.judge(picture(pixels, "a wall", "a dog")).score for pixels in (DARK, LIGHT, DARK)]
    assert scores[0] == scores[2] != scores[1]
    assert all(-1 <= score <= 1 for score in scores)


class Served(BaseHTTPRequestHandler):
    """Answers with the mean of the picture, after the failures that a test puts into `script`."""

    script: list[tuple[int, bytes]]
    seen: list[tuple[dict[str, Any], str]]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((request, self.headers.get("Authorization", "")))
        mean = float(decode(base64.b64decode(request["image"])).mean()) / 255
        status, body = self.script.pop(0) if self.script else (200, json.dumps({"score": mean}).encode())
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Served]]]:
    handler = type("Handler", (Served,), {"script": [], "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/score", handler
        listening.shutdown()


def test_an_endpoint_scores_and_busy_answers_are_tried_again(
    server: tuple[str, type[Served]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = server
    monkeypatch.setenv("SCORER_KEY", "secret")
    handler.script[:] = [(429, b""), (503, b"later")]
    section = ScorerSection(endpoint=url, threshold=0.5, api_key_variable="SCORER_KEY")
    found = ScorerFilter("nsfw", section, True).judge(picture(LIGHT, "a light wall"))
    assert (found.decision, len(handler.seen)) == (DROP, 3)
    assert found.score == pytest.approx(220 / 255, abs=0.01)
    request, key = handler.seen[-1]
    assert (request["captions"], key) == (["a light wall"], "Bearer secret")


def test_an_endpoint_that_refuses_talks_nonsense_or_is_away(server: tuple[str, type[Served]]) -> None:
    url, handler = server

    def judge(address: str = url) -> None:
        ScorerFilter("nsfw", ScorerSection(endpoint=address, threshold=0.5, timeout=2), True).judge(picture(LIGHT))

    for answer, words in (((401, b""), "401"), ((200, b"<html>"), "instead of a score"), ((200, b"[]"), "instead of")):
        handler.script[:] = [answer]
        with pytest.raises(BackdropError, match=words) as caught:
            judge()
        assert not isinstance(caught.value, ServiceError)
    handler.script[:] = [(500, b"")] * endpoint_scorer._ATTEMPTS
    with pytest.raises(ServiceError, match="5 attempts"):
        judge()
