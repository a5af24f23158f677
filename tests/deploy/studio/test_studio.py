"""The studio as a process on a real registry: every task, every bad input, memory, what is counted."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from infra.images import decode, encode_jpeg, encode_png
from infra.settings import REPOSITORY
from tests.deploy.studio.conftest import Playing
from tests.deploy.studio.pictures import (
    FILES,
    IMAGE,
    MASK,
    PHOTOGRAPH,
    PRODUCT,
    WORDS,
    bad_files,
    photograph,
    pictures,
    png_of,
    refused,
    saved,
    turned,
)

pytestmark = pytest.mark.integration

# ── before there is a champion ────────────────────────────────────────────────────────────────────────────────────


def test_without_a_champion_it_says_what_to_do(playing: Playing) -> None:
    before = playing.before
    assert before["/healthz"].status_code == before["/"].status_code == 200
    assert before["/readyz"].status_code == 503
    assert "make run" in before["/readyz"].json()["remedy"]
    assert before["/v1/status"].json()["champion"] is None
    assert before["/v1/samples"].json() == []
    assert before["post"].status_code == 503
    assert "make run" in before["post"].json()["remedy"]


# ── the four tasks ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_background_keeps_the_product(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/background", files=FILES, data={**WORDS, "seed": "3", "format": kind})
    made = pictures(client, answer)
    assert len(made) == 4
    for one in made:
        assert one.shape == IMAGE.shape
        assert np.array_equal(one[PRODUCT], IMAGE[PRODUCT])
    assert len({one.tobytes() for one in made}) == 4
    told = answer.json()
    assert told["answers"][0]["version"] == "1"
    assert told["answers"][0]["backend"] == "onnxruntime"
    assert told["answers"][0]["ranked_by"] == "seed"  # nobody has trained a reward here
    assert told["latency_ms"]["total"] > 0
    again = pictures(client, client.post("/v1/background", files=FILES, data={**WORDS, "seed": "3"}))
    assert np.array_equal(again[0], made[0])


def test_expand_keeps_the_photograph(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/expand", files={"photograph": PHOTOGRAPH}, data={"margins": "20,0,30,10", "k": "2", "negative": "a cup"}
    )
    for one in pictures(client, answer):
        assert one.shape == (160, 250, 3)
        assert np.array_equal(one[:150, 20:220], IMAGE)
    square = client.post("/v1/expand", files={"photograph": PHOTOGRAPH}, data={"ratio": "1:1", "k": "1"})
    assert pictures(client, square)[0].shape == (200, 200, 3)


@pytest.mark.parametrize("task", ["fill", "erase"])
def test_fill_and_erase_touch_the_mask_alone(client: httpx.Client, task: str) -> None:
    words = WORDS if task == "fill" else {}
    for one in pictures(client, client.post(f"/v1/{task}", files=FILES, data={**words, "k": "2"})):
        assert np.array_equal(one[~PRODUCT], IMAGE[~PRODUCT])
        assert not np.array_equal(one[PRODUCT], IMAGE[PRODUCT])
    whole = {**FILES, "mask": png_of(np.ones_like(PRODUCT))}
    everything = client.post(f"/v1/{task}", files=whole, data={**words, "k": "1"})
    assert pictures(client, everything)[0].shape == IMAGE.shape


def test_without_a_mask_the_product_is_looked_for(client: httpx.Client) -> None:
    answer = client.post("/v1/background", files={"photograph": PHOTOGRAPH}, data={**WORDS, "k": "1"})
    assert answer.json()["mask"]["from"] == "automatic"
    mask = client.post("/v1/mask", files={"photograph": PHOTOGRAPH})
    assert mask.headers["content-type"] == "image/png"
    found = decode(mask.content)[..., 0] > 127
    assert found.shape == PRODUCT.shape
    assert float(mask.headers["Mask-Share"]) == pytest.approx(found.mean(), abs=1e-3)
    made = pictures(client, answer)[0]
    assert np.array_equal(made[found], IMAGE[found])
    flat = {"photograph": encode_png(np.full((100, 100, 3), 200, np.uint8))}
    assert "No product" in refused(client.post("/v1/background", files=flat, data=WORDS), 422)["error"]


def test_samples_are_there_to_pick(client: httpx.Client) -> None:
    samples = client.get("/v1/samples").json()
    assert len(samples) == 4
    image = decode(client.get(samples[0]["picture"]).content)
    mask = decode(client.get(samples[0]["mask"]).content)[..., 0] > 127
    answer = client.post("/v1/background", data={**WORDS, "sample": samples[0]["id"]}, files={"nothing": b""})
    assert "nothing" in refused(answer, 422)["error"]
    answer = client.post("/v1/background", files=[("sample", (None, samples[0]["id"])), ("prompt", (None, "a wall"))])
    made = pictures(client, answer)[0]
    assert np.array_equal(made[mask], image[mask])
    missing = client.post("/v1/background", files=[("sample", (None, "nobody")), ("prompt", (None, "a wall"))])
    refused(missing, 422)


def test_champion_and_challenger_answer_side_by_side(client: httpx.Client, playing: Playing) -> None:
    answer = client.post("/v1/background", files=FILES, data={**WORDS, "side": "both", "k": "2", "seed": "1"})
    sides = answer.json()["answers"]
    assert [(one["side"], one["version"]) for one in sides] == [("champion", "1"), ("challenger", "2")]
    assert len({one["bundle"] for one in sides}) == 2
    for side in (0, 1):
        assert all(np.array_equal(one[PRODUCT], IMAGE[PRODUCT]) for one in pictures(client, answer, side))
    alone = client.post("/v1/background", files=FILES, data={**WORDS, "side": "challenger", "k": "1"})
    assert [one["version"] for one in alone.json()["answers"]] == ["2"]
    assert playing.studio.metric('studio_engine_version{alias="challenger"}') == 2


# ── pictures of every kind ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "prompt", ["青い床と白い壁の前の箱", "ящик на синем полу", "صندوق على أرضية زرقاء", "📦🟦", "a" * 1000]
)
def test_any_script_gives_a_picture(client: httpx.Client, prompt: str) -> None:
    assert len(pictures(client, client.post("/v1/background", files=FILES, data={"prompt": prompt, "k": "1"}))) == 1


def test_odd_photographs_are_read_as_they_are_seen(client: httpx.Client) -> None:
    grey16 = saved(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20, "PNG")
    inks = saved(np.full((40, 60, 4), (0, 90, 90, 30), np.uint8), "TIFF")  # four channels: alpha in a TIFF
    cmyk_file = io.BytesIO()
    Image.fromarray(IMAGE).convert("CMYK").save(cmyk_file, "JPEG")
    odd = {
        "turned": turned(IMAGE),
        "16 bits": grey16,
        "four channels": inks,
        "cmyk": cmyk_file.getvalue(),
        "palette": saved(np.asarray(Image.fromarray(IMAGE).convert("P").convert("RGB")), "GIF"),
        "grey": saved(IMAGE[..., 0], "JPEG"),
        "one pixel": encode_png(IMAGE[:1, :1]),
        "a line": encode_png(np.ascontiguousarray(IMAGE[:1])),
    }
    for name, data in odd.items():
        shown = decode(data)
        mask = np.zeros(shown.shape[:2], bool)
        mask[:, : max(1, mask.shape[1] // 2)] = True
        files = {"photograph": data, "mask": png_of(mask)}
        answer = client.post("/v1/background", files=files, data={**WORDS, "k": "1"})
        if mask.all():
            assert "covers everything" in refused(answer, 422)["error"]
            continue
        made = pictures(client, answer)[0]
        assert np.array_equal(made[mask], shown[mask]), name
    assert decode(odd["turned"]).shape == IMAGE.shape


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(bad_files()))
def test_a_bad_file_is_a_clear_4xx(client: httpx.Client, name: str) -> None:
    data, status = bad_files()[name]
    for files in ({"photograph": data}, {"photograph": PHOTOGRAPH, "mask": data}):
        assert refused(client.post("/v1/background", files=files, data=WORDS), status)["remedy"]
    refused(client.post("/v1/mask", files={"photograph": data}), status)


def test_bad_requests_are_clear_4xx(client: httpx.Client) -> None:
    post = client.post
    empty, full = (png_of(np.full_like(PRODUCT, on)) for on in (False, True))
    assert "empty" in refused(post("/v1/background", files={**FILES, "mask": empty}, data=WORDS), 422)["error"]
    assert "everything" in refused(post("/v1/background", files={**FILES, "mask": full}, data=WORDS), 422)["error"]
    assert "10,000" in refused(post("/v1/background", files=FILES, data={"prompt": "界" * 10_000}), 422)["error"]
    refused(post("/v1/background", files=FILES, data={"prompt": "x" * 200_000}), 413)
    refused(post("/v1/background", files=FILES), 422)
    refused(post("/v1/background", files={"mask": MASK}, data=WORDS), 422)
    refused(post("/v1/background", files=[("photograph", PHOTOGRAPH), ("photograph", PHOTOGRAPH)], data=WORDS), 422)
    refused(post("/v1/background", files=[("photograph", PHOTOGRAPH)] * 5, data=WORDS), 400)
    refused(post("/v1/background", data={**WORDS, "photograph": "x"}), 415)
    refused(post("/v1/background", json=WORDS), 415)
    refused(post("/v1/background", content=b"--x\r\n", headers={"Content-Type": "multipart/form-data"}), 400)
    refused(post("/v1/background", content=b"junk", headers={"Content-Type": "multipart/form-data; boundary=x"}), 400)
    refused(client.get("/v1/background"), 405)
    refused(client.get("/nothing"), 404)
    refused(client.get("/v1/pictures/nothing.png"), 404)
    refused(client.get("/../../etc/passwd"), 404)


def test_a_long_thin_picture_holds_up_nobody(client: httpx.Client) -> None:
    """A few kilobytes whose mask would grow by a hundredth of a very long side."""
    flat = Image.new("RGBA", (60_000, 100), (200, 200, 200, 255))
    flat.paste((0, 0, 0, 0), (0, 0, 30_000, 100))
    began = time.monotonic()
    for task in ("mask", "erase"):
        words = {"task": "erase"} if task == "mask" else WORDS
        assert (
            "pixels long"
            in refused(
                client.post(f"/v1/{task}", files={"photograph": saved(np.asarray(flat), "PNG")}, data=words), 413
            )["error"]
        )
    wide = flat.crop((22_500, 0, 37_500, 100))
    assert (
        client.post(
            "/v1/erase", files={"photograph": saved(np.asarray(wide), "PNG")}, data={**WORDS, "k": "1"}
        ).status_code
        == 200
    )
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("charset", "prompt"), [("undefined", b"a box"), ("unicode_escape", b"\\ud800")])
def test_a_charset_of_the_clients_own_is_no_fault(client: httpx.Client, charset: str, prompt: bytes) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + prompt + b"\r\n--x--\r\n"
    answer = client.post(
        "/v1/fill", content=part, headers={"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    )
    assert "UTF-8" in refused(answer, answer.status_code)["remedy"]
    assert answer.status_code in (400, 422)


def test_a_candidates_own_seed_is_taken(client: httpx.Client) -> None:
    asked = {**WORDS, "k": "4"}
    found = client.post("/v1/background", files=FILES, data=asked).json()["answers"][0]["candidates"]
    largest = max((one["seed"] for one in found), key=int)
    assert client.post("/v1/background", files=FILES, data={**asked, "k": "1", "seed": largest}).status_code == 200


def test_an_upload_is_refused_while_it_comes(client: httpx.Client) -> None:
    sent = [0]

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="photograph"; filename="a.png"\r\n\r\n'
        for _ in range(400):
            sent[0] += 1 << 20
            yield bytes(1 << 20)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        told = refused(client.post("/v1/background", content=endless(), headers=headers), 413)
        assert "48 MB" in told["error"]
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # the answer came, and the connection ended, while we were sending
    large = {"photograph": bytes(60 << 20)}
    refused(client.post("/v1/background", files=large, data=WORDS), 413)
    assert client.get("/healthz").status_code == 200


def test_foreign_pages_and_names_get_nothing(client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "rebound.example"}).status_code == 403
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        refused(client.post("/v1/background", files=FILES, data=WORDS, headers=headers), 403)
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in page.headers
    assert "<script>" not in page.text
    for foreign in ("http://", "https://", " style=", "onclick"):
        assert foreign not in page.text


# ── many requests ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_stays_flat(playing: Playing, client: httpx.Client) -> None:
    process = psutil.Process(playing.studio.process.pid)
    files = {"photograph": encode_jpeg(photograph(640, 480)[0]), "mask": png_of(photograph(640, 480)[1])}

    def ask(count: int) -> int:
        for number in range(count):
            answer = client.post("/v1/background", files=files, data={"prompt": f"wall {count} {number}", "k": "2"})
            assert answer.status_code == 200
        return int(process.memory_info().rss)

    warm = ask(140)  # the shelf of finished pictures is full then
    grown = (ask(200) - warm) / 1e6
    print(f"200 requests more: {grown:+.1f} MB (bar: 32 MB)")
    assert grown < 32, f"{grown:.0f} MB more"


def test_what_is_counted(playing: Playing, client: httpx.Client) -> None:
    before = playing.studio.metric('studio_requests_total{status="200",task="fill"}')
    client.post("/v1/fill", files=FILES, data={**WORDS, "k": "1"})
    client.post("/v1/fill", files={"photograph": b"x"}, data=WORDS)
    assert playing.studio.metric('studio_requests_total{status="200",task="fill"}') == before + 1
    assert playing.studio.metric('studio_rejected_total{cause="not an image"}') >= 1
    assert playing.studio.metric("product_pixels_violated_total") == 0
    assert playing.studio.metric("engine_fallback_total") == 0
    assert playing.studio.metric("studio_engine_errors_total") == 0
    assert playing.studio.metric('studio_engine_version{alias="champion"}') == 1
    assert playing.studio.metric('studio_stage_seconds_count{stage="engine"}') > 0


def test_every_metric_is_in_the_documents_table(client: httpx.Client) -> None:
    page = (REPOSITORY / "docs" / "studio.md").read_text()
    named = " ".join(re.findall(r"^\| (`\w+_.*?) \|", page, re.MULTILINE))
    table = {name: set(filter(None, labels.split(","))) for name, labels in re.findall(r"`(\w+)(?:{(.*?)})?`", named)}
    text = client.get("/metrics").text
    kinds = {name for name in re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE) if not name.endswith("_created")}
    assert set(table) == kinds
    for name, labels in re.findall(r"^(\w+?)(?:_bucket|_count|_sum)?(?:\{(.*)\})? ", text, re.MULTILINE):
        if name in kinds:
            assert set(re.findall(r'(\w+)="', labels)) - {"le"} == table[name], name


def test_a_metric_that_is_none_is_an_error(playing: Playing) -> None:
    assert playing.studio.metric('studio_requests_total{status="999",task="fill"}') == 0
    for line in (
        "studio_engine_mistakes_total",
        'studio_request_total{status="200",task="fill"}',
        "studio_requests_total",
    ):
        with pytest.raises(KeyError, match="studio_requests_total"):
            playing.studio.metric(line)
