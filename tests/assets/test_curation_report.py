"""The page about a delivery: its numbers against a real catalog, its pictures, and what a takedown has to know."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from sqlalchemy import insert, text

from assets.curation.drift import checks, compare_delivery
from assets.curation.filters import ORDER
from assets.curation.filters.settings import FilterSection
from assets.curation.report.figures import choose_axis, histogram, number, two_distributions
from assets.curation.report.gather import Threshold
from assets.curation.report.lines import lines
from assets.curation.report.write import THUMB, WrittenReport, thumbnail, write_report
from infra.catalog import Catalog
from infra.catalog.models import Takedown as Order
from infra.catalog.models import TakenDown
from infra.catalog.rows import CopyRow, MaskRow, QuarantineRow, ScannedRow, SightingRow, VerdictRow
from infra.images import decode, encode_png
from infra.jobs.spec import Check
from infra.object_store import ObjectStore

pytestmark = pytest.mark.integration

LINES = {
    "size": [Threshold(100, "below", "shorter side", unit="px"), Threshold(3, "above", "aspect", measure="aspect")],
    "graphics": [],
}


def image_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class Deliveries:
    """A catalog with deliveries of numbered pictures, written as a scan and a decision write them."""

    def __init__(self, url: str) -> None:
        self.catalog = Catalog(url)

    def add(self, name: str, sizes: Sequence[int], *, kind: str = "folder", **cases: Sequence[int]) -> None:
        """Pictures by their shorter side; `cases`: the numbers of those that are corrupt, logos, copies (of picture 0),
        cleaned, emptied, or unsure.
        """
        self.catalog.add_delivery(name, f"s3://bucket/{name}", kind)
        uris = [f"s3://bucket/{name}/{k:04d}.jpg" for k in range(len(sizes))]
        captions = [["<b>a chair</b>"] for _ in sizes]
        self.catalog.ingest(
            name, [SightingRow(u, captions=c, licence="cc0") for u, c in zip(uris, captions, strict=True)]
        )
        rows, verdicts, quarantined, kept, copies, masks = [], [], [], [], [], []
        for k, sighting in enumerate(self.catalog.sightings(name)):
            one, size = image_id(sighting.uri), sizes[k]

            def judge(*values: object, sighting: SightingRow = sighting, one: str = one) -> None:
                verdicts.append(VerdictRow(sighting.id, one, values[0], "1", *values[1:]))  # type: ignore[arg-type]

            if k in cases.get("corrupt", ()):
                rows.append(ScannedRow(sighting.id, one, 10))
                judge("decode", "drop", 0.0, "corrupt: bad marker")
                quarantined.append(
                    QuarantineRow(
                        sighting.id, sighting.uri, one, "corrupt", "bad marker", 10, f"quarantine/{name}/{one}"
                    )
                )
                continue
            cleaned = ["a chair"] if k in cases.get("cleaned", ()) else [] if k in cases.get("emptied", ()) else None
            rows.append(ScannedRow(sighting.id, one, 1000, "jpeg", 2 * size, size, k, b"", cleaned))
            small, logo = size < 100, k in cases.get("logos", ())
            judge("size", "drop" if small else "keep", size, f"small: {size} px" if small else "", {"aspect": 2.0})
            judge("graphics", "drop" if logo else "keep", float("nan"), "logo: flat" if logo else "")
            judge("nsfw", "not scored")
            if k in cases.get("copies", ()):
                copies.append(CopyRow(one, image_id(uris[0]), k % 12, 1.5 * k, False))
                judge("near duplicate", "drop", 1.5 * k, "near duplicate: of 0000.jpg")
            elif not small and not logo:
                kept.append(("1:1", "train", one, sighting.id))
                sure = k not in cases.get("unsure", ())
                masks.append(MaskRow(one, "seg", 0.9 if sure else 0.2, f"masks/seg/{one}.png" if sure else ""))
        self.catalog.commit_scan(name, "slice", rows, verdicts, quarantined)
        with self.catalog.deciding(name) as connection:
            self.catalog.write_decision(connection, name, [], copies, kept)
        self.catalog.commit_masks(masks)

    def take_down(self, one: str) -> None:
        with self.catalog.engine.begin() as connection:
            order = connection.scalar(insert(Order).values(target=one, reason="asked").returning(Order.id))
            connection.execute(insert(TakenDown).values(image_id=one, takedown=order))


@pytest.fixture
def deliveries(catalog_url: str) -> Iterator[Deliveries]:
    made = Deliveries(catalog_url)
    yield made
    made.catalog.close()


CASES = {"corrupt": [3, 4], "logos": [5], "copies": [6, 7, 8], "cleaned": [9, 10], "emptied": [11], "unsure": [12]}
SIZES = [90 + 2 * k for k in range(60)]  # 0 … 4 lie below the line at 100


@pytest.fixture
def mixed(deliveries: Deliveries) -> Deliveries:
    deliveries.add("mixed", SIZES, **CASES)
    return deliveries


def look(uri: str, one: str) -> np.ndarray | None:
    assert one == image_id(uri)
    if uri.endswith("0002.jpg"):
        return None
    return np.full((300, 600, 3), int(uri[-6:-4]), np.uint8)


def write(deliveries: Deliveries, store: ObjectStore, name: str = "mixed", **more: object) -> tuple[WrittenReport, str]:
    found = write_report(deliveries.catalog, store, name, "out/x", LINES, look=look, masks="seg", **more)  # type: ignore[arg-type]
    return found, store.get(found.page).decode()


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))


def test_the_page_says_what_was_dropped_and_why(mixed: Deliveries, store: ObjectStore) -> None:
    said = words(write(mixed, store)[1])
    # 60 = 2 corrupt + 3 small + 1 logo + 3 copies + 51 kept; each at the first filter that drops it
    assert "51 of 60 pictures are kept (85 %)." in said
    for step in ("− decode 2 corrupt 2", "− size 3 small 3", "− graphics 1 logo 1", "− near duplicate 3", "kept 51"):
        assert step in said, step
    assert "not decided" not in said
    assert "Not scored nsfw" in said
    assert "3 near copies of 1 pictures" in said
    assert "8 bits · 12 grey levels" in said
    assert "corrupt 2 20 bytes" in said
    assert "0003.jpg bad marker" in said
    assert "2 pictures had captions cleaned, 1 had none worth keeping" in said
    assert "50 cut here, sure, 1 unsure" in said
    assert "no delivery of this kind came before" in said


def test_names_and_captions_are_escaped_and_nothing_is_inlined(mixed: Deliveries, store: ObjectStore) -> None:
    found, page = write(mixed, store)
    assert "&lt;b&gt;a chair&lt;/b&gt;" in page
    assert "<b>a chair" not in page
    assert "data:" not in page
    assert "<script" not in page
    links = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    thumbs = {link for link in links if not link.startswith("#")}
    assert thumbs
    assert {f"out/x/report/{link}" for link in thumbs} == set(found.shows) - {found.page}
    for link in thumbs:
        assert re.fullmatch(r"thumbs/[0-9a-f]{64}(-mask)?\.jpg", link)
        assert max(decode(store.get(f"out/x/report/{link}")).shape) == THUMB


def test_every_key_names_the_image_that_it_shows(mixed: Deliveries, store: ObjectStore) -> None:
    found, page = write(mixed, store)
    for key, ids in found.shows.items():
        if key != found.page:
            assert list(ids) == [key.rpartition("/")[2][:64]]
            assert ids[0] in found.shows[found.page]
    # Named on the page without a picture: in quarantine, or quoted.
    for k in (3, 4, 9, 11):
        assert image_id(f"s3://bucket/mixed/{k:04d}.jpg") in found.shows[found.page]
    assert set(store.list("out/x/report/")) == set(found.shows)
    with mixed.catalog.engine.connect() as connection:
        rows = {tuple(row) for row in connection.execute(text("SELECT key, image_id FROM shown"))}
    assert rows == {(key, one) for key, ids in found.shows.items() for one in ids}
    missing = image_id("s3://bucket/mixed/0002.jpg")  # dropped for its size, and gone
    assert f"thumbs/{missing}" not in page
    assert "no picture" in page


def test_a_picture_is_known_before_it_is_stored(mixed: Deliveries, store: ObjectStore) -> None:
    class Away(Exception):
        pass

    class Failing:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def put(self, key: str, data: bytes) -> None:
            with mixed.catalog.engine.connect() as connection:
                known = connection.scalar(text("SELECT count(*) FROM shown WHERE key = :key"), {"key": key})
            assert known
            raise Away

    with pytest.raises(Away):
        write(mixed, Failing())  # type: ignore[arg-type]


def test_what_is_taken_down_is_gone_from_the_next_page(mixed: Deliveries, store: ObjectStore) -> None:
    before, _ = write(mixed, store)
    for k in (0, 3, 6, 9, 11, 12, 20):
        one = image_id(f"s3://bucket/mixed/{k:04d}.jpg")
        assert any(one in ids for ids in before.shows.values()) or k == 20
        mixed.take_down(one)
    after, page = write(mixed, store)
    assert set(store.list("out/x/report/")) == set(after.shows)
    for k in (0, 3, 6, 9, 11, 12, 20):
        assert image_id(f"s3://bucket/mixed/{k:04d}.jpg") not in page
        assert f"{k:04d}.jpg" not in page


def test_borderline_pictures_are_the_closest_on_both_sides(mixed: Deliveries) -> None:
    below, above = mixed.catalog.nearest("mixed", "size", "", 100, 3)
    assert [one.score for one in below] == [94, 92, 90]
    assert [one.score for one in above] == [100, 102, 104]
    assert {one.decision for one in below} == {"drop"}
    assert below[0].image_id == image_id("s3://bucket/mixed/0002.jpg")
    assert mixed.catalog.nearest("mixed", "size", "aspect", 3, 3)[1] == []
    assert mixed.catalog.nearest("mixed", "size", "no such number", 3, 3) == ([], [])


def test_histograms_count_every_score_once(mixed: Deliveries) -> None:
    extent = mixed.catalog.extent("mixed", "size")
    assert extent is not None
    assert (extent.number, extent.low, extent.high) == (58, 90, 208)
    counts = mixed.catalog.histogram("mixed", "size", "", 90, 190, 10, False)
    assert counts[0] == (3, 0)
    assert counts[1] == (0, 5)
    assert counts[-1] == (0, 5 + 10)  # with what lies beyond
    assert sum(map(sum, counts)) == 58
    logarithmic = mixed.catalog.histogram("mixed", "size", "", np.log(90), np.log(210), 10, True)
    assert sum(map(sum, logarithmic)) == 58
    assert mixed.catalog.extent("mixed", "graphics") is None  # NaN is no score
    assert mixed.catalog.extent("mixed", "nsfw") is None


def test_metadata_rows_come_in_order_with_the_kept_first(mixed: Deliveries) -> None:
    rows = list(mixed.catalog.metadata_rows("mixed", "seg"))
    assert [row.id for row in rows] == sorted(row.id or "" for row in rows)
    assert sum(row.kept for row in rows) == 51
    assert sum(row.decoded for row in rows) == 58
    assert sum(row.mask for row in rows) == 50
    by_id = {row.id: row for row in rows}
    emptied = by_id[image_id("s3://bucket/mixed/0011.jpg")]
    assert (emptied.captions, emptied.caption_length, emptied.short_side, emptied.aspect) == (0, 0, 112, 2.0)
    assert by_id[image_id("s3://bucket/mixed/0009.jpg")].caption_length == len("a chair")
    assert sum(row.mask for row in mixed.catalog.metadata_rows("mixed")) == 0


def test_a_row_of_metadata_leads_to_its_file_and_to_why_it_was_dropped(mixed: Deliveries) -> None:
    rows = {row.id: row.sighting for row in mixed.catalog.metadata_rows("mixed")}
    names = [f"s3://bucket/mixed/{k:04d}.jpg" for k in (0, 3, 7, 20)]
    mixed.take_down(image_id(names[0]))
    places = mixed.catalog.sighted([rows[image_id(name)] for name in names], ORDER)
    found = {place.uri: (place.image_id, place.dropped) for place in places.values()}
    why = ["corrupt: bad marker", "near duplicate: of 0000.jpg", ""]
    assert found == {name: (image_id(name), reason) for name, reason in zip(names[1:], why, strict=True)}


def test_drift_is_against_the_earlier_deliveries_of_its_kind(deliveries: Deliveries, store: ObjectStore) -> None:
    deliveries.add("a", [512] * 200)
    deliveries.add("rendered", [256] * 200, kind="sample")
    deliveries.add("b", [512] * 150, logos=range(3))
    deliveries.add("c", [520] * 150 + [90] * 60, logos=range(4))
    catalog = deliveries.catalog
    assert catalog.earlier_deliveries("c", 5) == ["b", "a"]
    assert catalog.earlier_deliveries("c", 1) == ["b"]
    assert catalog.earlier_deliveries("a", 5) == []
    assert not compare_delivery(catalog, "rendered").drifts
    assert all(check.passed for check in checks(compare_delivery(catalog, "b")))
    found = compare_delivery(catalog, "c")
    assert {one.name for one in found.drifts if one.drifted} == {"resolution", "dropped by size"}
    page = write(deliveries, store, "c", drift=found, checks=checks(found))[1]
    said = words(page)
    assert "Compared with b, a." in said
    assert "dropped by size drifted 0.0% before, 28.6% now" in said
    assert "Missed: resolution drift, drop rate drift. A warning: the line goes on." in said


def test_a_page_about_nothing(deliveries: Deliveries, store: ObjectStore) -> None:
    deliveries.catalog.add_delivery("empty", "s3://bucket/empty", "folder")
    failed = Check(name="something_is_kept", passed=False, metadata={"observed_value": 0})
    found, page = write(deliveries, store, "empty", checks=[failed], data_docs=b"<html>docs</html>")
    assert "Nothing was delivered." in page
    assert "The line stops here." in page
    assert 'href="data_docs/index.html"' in page
    assert store.get("out/x/report/data_docs/index.html") == b"<html>docs</html>"
    assert found.shows == {found.page: []}


def test_sure_masks_are_drawn_on_their_pictures(mixed: Deliveries, store: ObjectStore) -> None:
    mask = np.zeros((30, 60), np.uint8)
    mask[:, 30:] = 255
    cut = mixed.catalog.mask_examples("mixed", "seg", "cut", 1)[0]
    assert cut.key
    store.put(cut.key, encode_png(mask))
    write(mixed, store)
    shown = decode(store.get(f"out/x/report/thumbs/{cut.image_id}-mask.jpg"))
    plain = int(cut.uri[-6:-4])
    assert abs(shown[50, 180].astype(int) - plain).max() <= 3
    assert shown[50, 40].min() > 140  # faded


def test_every_filter_has_its_line_in_the_order_in_which_it_runs() -> None:
    section = FilterSection()
    found = lines(section, 256)
    assert tuple(found) == ORDER
    assert [line.value for line in found["size"]] == [256]
    assert [line.drops for line in found["aesthetics"]] == ["below"]
    assert found["nsfw"][0].value == section.nsfw.threshold
    assert found["caption"] == []


def test_axes_show_the_line_and_the_bulk() -> None:
    straight = choose_axis(0, 1000, 10, 90, [100])
    assert straight.low <= 10
    assert 100 < straight.high < 110
    assert straight.place(5000) == 1.0
    wide = choose_axis(0.5, 90_000, 1, 9000, [20])
    assert wide.logarithmic
    assert wide.low < 1 < 9000 < wide.high
    assert choose_axis(-3, 3, -2, 2, []).low < -2
    same = choose_axis(5, 5, 5, 5, [5])
    assert same.low < 5 < same.high


def test_figures_are_drawn_to_scale() -> None:
    axis = choose_axis(0, 100, 0, 100, [50])
    svg = histogram([(0, 10), (5, 5), (0, 0)], axis, [(50, "a < b")])
    assert svg.count("<rect") == 3
    assert "a &lt; b" in svg
    heights = [float(h) for h in re.findall(r'class="(?:keep|drop)"[^>]*height="([\d.]+)"', svg)]
    assert heights == [120.0, 60.0, 60.0]
    assert histogram([(0, 0)], axis, []) == ""
    paired = two_distributions([0.5, 0.5, 0], [0, 1.0, 0], ["small", "large", "huge"])
    assert "huge" not in paired
    assert "large: 100.0% now" in paired
    assert [number(x) for x in (0, 0.5, 12345, 1e-5, 300.0)] == ["0", "0.5", "12,345", "1.0e-05", "300"]


def test_thumbnails_keep_their_shape() -> None:
    assert thumbnail(np.zeros((600, 300, 3), np.uint8)).shape == (THUMB, THUMB // 2, 3)
    assert thumbnail(np.zeros((8, 4, 3), np.uint8)).shape == (8, 4, 3)
    assert thumbnail(np.zeros((1, 5000, 3), np.uint8)).shape == (1, THUMB, 3)
