"""The catalog's last part: a delivery in numbers and a few examples. All sums are made by the database.

Examples are the first by image id, which is a hash: a random sample that is the same each time. Images that were taken
down are never among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text

from infra.catalog.connection import CatalogDatabase

_SAMPLE = 20_000  # scores that percentiles are taken from: their error is then below half a percent of rank
_TITLE = "split_part(reason, ':', 1)"  # "blurred: 12 of 30" and "blurred: 14 of 30" are one reason
# A measure of a verdict: its score, or a number in its detail. Infinities and NaN are none.
_MEASURED = """
    measured AS (
        SELECT sighting, image_id, decision, reason, x FROM (
            SELECT sighting, image_id, decision, reason, CASE WHEN :measure = '' THEN score
                WHEN jsonb_typeof(detail -> :measure) = 'number' THEN (detail ->> :measure)::float8 END AS x
            FROM verdicts WHERE delivery = :delivery AND filter = :filter AND decision <> 'not scored'
        ) v WHERE x > '-Infinity' AND x < 'Infinity'
    )
"""
_ALLOWED = "NOT EXISTS (SELECT FROM taken_down t WHERE t.image_id = {}.image_id)"
_FUNNEL = """
    SELECT filter, title, sum(n)::int, sum(sum(n)) OVER (PARTITION BY filter)::int FROM (
        SELECT DISTINCT ON (sighting) filter, split_part(reason, ':', 1) AS title, 1 AS n FROM verdicts
        WHERE delivery = :delivery AND decision = 'drop'
        ORDER BY sighting, coalesce(array_position(cast(:order AS text[]), filter), 1000), filter
    ) fallen GROUP BY filter, title
    ORDER BY coalesce(array_position(cast(:order AS text[]), filter), 1000), filter, sum(n) DESC, title
"""
_EXTENT = f"""
    WITH {_MEASURED} SELECT count(*), min(x), max(x),
        percentile_disc(0.01) WITHIN GROUP (ORDER BY x) FILTER (WHERE image_id COLLATE "C" < :cut),
        percentile_disc(0.99) WITHIN GROUP (ORDER BY x) FILTER (WHERE image_id COLLATE "C" < :cut)
    FROM measured
"""
_HISTOGRAM = f"""
    WITH {_MEASURED} SELECT least(greatest(width_bucket(
            CASE WHEN :logarithmic THEN ln(greatest(x, 1e-12)) ELSE x END, :low, :high, :bins), 1), :bins) - 1,
        decision = 'drop', count(*) FROM measured GROUP BY 1, 2
"""
_NEAREST = f"""
    WITH {_MEASURED}, picked AS (
        SELECT * FROM measured m WHERE image_id IS NOT NULL AND {{side}} AND {_ALLOWED.format("m")}
        ORDER BY x {{order}}, image_id, sighting LIMIT :limit
    )
    SELECT p.image_id, s.uri, p.x, p.decision, p.reason FROM picked p JOIN sightings s ON s.id = p.sighting
    ORDER BY p.x {{order}}, p.image_id, p.sighting
"""
_DROPPED = f"""
    SELECT image_id, uri, score, decision, reason FROM (
        SELECT v.image_id, s.uri, v.score, v.decision, v.reason,
            row_number() OVER (PARTITION BY split_part(v.reason, ':', 1) ORDER BY v.image_id, v.sighting) AS nth
        FROM verdicts v JOIN sightings s ON s.id = v.sighting
        WHERE v.delivery = :delivery AND v.filter = :filter AND v.decision = 'drop' AND v.image_id IS NOT NULL
            AND {_ALLOWED.format("v")}
    ) one ORDER BY nth, image_id LIMIT :limit
"""
_GROUPS = f"""
    WITH groups AS (
        SELECT c.of, count(*) AS n, max(c.residual) IS NULL AS semantic, row_number() OVER (
            PARTITION BY max(c.residual) IS NULL ORDER BY max(c.residual) DESC, min(c.similarity), c.of) AS place
        FROM copies c WHERE c.delivery = :delivery
            AND {_ALLOWED.format("c")} AND NOT EXISTS (SELECT FROM taken_down t WHERE t.image_id = c.of)
        GROUP BY c.of ORDER BY place, semantic LIMIT :limit
    ), members AS (
        SELECT g.*, c.image_id, c.distance, c.residual, c.better, c.similarity, row_number() OVER (
            PARTITION BY g.of ORDER BY c.residual DESC NULLS LAST, c.similarity, c.image_id) AS nth
        FROM groups g JOIN copies c ON c.delivery = :delivery AND c.of = g.of WHERE {_ALLOWED.format("c")}
    )
    SELECT m.of, m.n, m.image_id, m.distance, m.residual, m.better, m.similarity,
        (SELECT max(s.uri) FROM sightings s WHERE s.image_id = m.of),
        (SELECT max(s.uri) FROM sightings s WHERE s.image_id = m.image_id AND s.delivery = :delivery)
    FROM members m WHERE m.nth <= :members ORDER BY m.place, m.semantic, m.nth
"""
_QUARANTINE = f"""
    SELECT title, n, size, uri, image_id, detail FROM (
        SELECT {_TITLE} AS title, uri, image_id, detail, count(*) OVER reasons AS n,
            (sum(bytes) OVER reasons)::bigint AS size,
            row_number() OVER (PARTITION BY {_TITLE} ORDER BY image_id, sighting) AS nth
        FROM quarantine q WHERE delivery = :delivery AND {_ALLOWED.format("q")}
        WINDOW reasons AS (PARTITION BY {_TITLE})
    ) one WHERE nth <= :limit ORDER BY n DESC, title, nth
"""
_CAPTIONS = f"""
    SELECT s.image_id, s.uri, s.captions, s.cleaned FROM sightings s
    WHERE s.delivery = :delivery AND s.cleaned IS DISTINCT FROM s.captions AND s.cleaned IS NOT NULL
        AND (s.cleaned = '[]') = :emptied AND {_ALLOWED.format("s")}
    ORDER BY s.image_id, s.id LIMIT :limit
"""
_MASKED = """
    WITH masked AS (
        SELECT k.image_id, s.uri, s.mask_uri, m.confidence, m.key,
            CASE WHEN s.mask_uri IS NOT NULL THEN 'delivered' WHEN m.key IS NULL THEN 'none'
                WHEN m.key = '' OR v.decision = 'unsure' THEN 'unsure' ELSE 'cut' END AS state
        FROM kept k JOIN sightings s ON s.id = k.sighting
        LEFT JOIN verdicts v ON v.sighting = s.id AND v.filter = 'mask'
        LEFT JOIN masks m ON m.image_id = k.image_id AND m.source = :source WHERE k.delivery = :delivery
    )
"""
_MASK_COUNTS = f"{_MASKED} SELECT state, count(*) AS n FROM masked GROUP BY state"
_MASK_EXAMPLES = f"""
    {_MASKED} SELECT image_id, uri, confidence, key FROM masked WHERE state = :state AND {_ALLOWED.format("masked")}
    ORDER BY {{order}}, image_id LIMIT :limit
"""
_METADATA = """
    SELECT s.image_id, coalesce(i.format, ''), coalesce(least(i.width, i.height), 0),
        coalesce(greatest(i.width, i.height)::float8 / nullif(least(i.width, i.height), 0), 0),
        jsonb_array_length(coalesce(s.cleaned, s.captions)) + (w.text IS NOT NULL)::int,
        coalesce(greatest(length(w.text),
            (SELECT max(length(c)) FROM jsonb_array_elements_text(coalesce(s.cleaned, s.captions)) c)), 0),
        s.licence, s.mask_uri IS NOT NULL OR (coalesce(m.key, '') <> '' AND v.decision IS DISTINCT FROM 'unsure'),
        coalesce(i.width, 0) > 0, k.sighting IS NOT NULL, s.id
    FROM sightings s LEFT JOIN images i ON i.id = s.image_id
    LEFT JOIN kept k ON k.delivery = s.delivery AND k.image_id = s.image_id AND k.sighting = s.id
    LEFT JOIN verdicts v ON v.sighting = s.id AND v.filter = 'mask'
    LEFT JOIN masks m ON m.image_id = s.image_id AND m.source = :masks
    LEFT JOIN captions w ON w.image_id = s.image_id AND w.source = :captions
    WHERE s.delivery = :delivery ORDER BY s.image_id COLLATE "C", k.sighting IS NULL, s.id
"""
_PLACES = f"""
    SELECT s.id, s.image_id, s.uri, coalesce((
        SELECT v.reason FROM verdicts v WHERE v.sighting = s.id AND v.decision = 'drop'
        ORDER BY coalesce(array_position(cast(:order AS text[]), v.filter), 1000), v.filter LIMIT 1), '')
    FROM sightings s WHERE s.id = ANY(cast(:sightings AS bigint[])) AND {_ALLOWED.format("s")}
"""
_EARLIER = """
    SELECT d.name FROM deliveries d JOIN deliveries own ON own.name = :delivery
    WHERE d.name <> own.name AND (d.added_at, d.name) < (own.added_at, own.name)
        AND (d.kind = 'sample') = (own.kind = 'sample')
        AND EXISTS (SELECT FROM kept k WHERE k.delivery = d.name)
    ORDER BY d.added_at DESC, d.name DESC LIMIT :limit
"""
_SHAPES = """
    SELECT delivery, resolution, aspect, caption, count(*) FROM (
        SELECT s.delivery, width_bucket(sqrt(i.width::float8 * i.height), cast(:resolution AS float8[])) AS resolution,
            width_bucket(i.width::float8 / i.height, cast(:aspect AS float8[])) AS aspect,
            width_bucket(coalesce((SELECT max(length(c)) FROM jsonb_array_elements_text(
                coalesce(s.cleaned, s.captions)) c), 0)::float8, cast(:caption AS float8[])) AS caption
        FROM sightings s JOIN images i ON i.id = s.image_id
        WHERE s.delivery = ANY(cast(:deliveries AS text[])) AND i.width > 0 AND i.height > 0
    ) binned GROUP BY GROUPING SETS ((delivery, resolution), (delivery, aspect), (delivery, caption))
"""
_DROPS = """
    SELECT delivery, filter, count(*) FILTER (WHERE decision = 'drop') FROM verdicts
    WHERE delivery = ANY(cast(:deliveries AS text[])) AND decision <> 'not scored' GROUP BY delivery, filter
"""
_TOTALS = """
    SELECT delivery, count(*) FROM sightings WHERE delivery = ANY(cast(:deliveries AS text[])) GROUP BY delivery
"""


class MetadataRow(NamedTuple):
    """What is known of one sighting without its pixels. `id` is its image's; sizes are 0 where it cannot be decoded."""

    id: str | None
    format: str
    short_side: int
    aspect: float  # longer over shorter side
    captions: int
    caption_length: int  # of the longest, in characters
    licence: str
    mask: bool
    decoded: bool
    kept: bool
    sighting: int = 0


class Place(NamedTuple):
    """Where a sighting's file lies, which image it is (None: never read), and why it was dropped; "" if it was not."""

    image_id: str | None
    uri: str
    dropped: str


class Fallen(NamedTuple):
    """How many sightings fell first at a filter, for one reason; `total`: for any reason of that filter."""

    filter: str
    reason: str
    number: int
    total: int


class Extent(NamedTuple):
    """Where a filter's scores lie: how many, the extremes, and the first and last percentile (of a sample)."""

    number: int
    low: float
    high: float
    first: float
    last: float


class Example(NamedTuple):
    """One judged picture."""

    image_id: str
    uri: str
    score: float | None
    decision: str
    reason: str


class GroupMember(NamedTuple):
    """One copy of `of`, which has `copies` of them in the delivery; a URI is None where no delivery has it now.

    A near duplicate has `distance` and `residual`, a semantic one `similarity`.
    """

    of: str
    copies: int
    image_id: str
    distance: int | None
    residual: float | None
    better: bool
    similarity: float | None
    of_uri: str | None
    uri: str | None


class Found(NamedTuple):
    """One example of a reason for quarantine, with that reason's totals."""

    reason: str
    number: int
    bytes: int
    uri: str
    image_id: str | None
    detail: str


class CaptionFix(NamedTuple):
    """One picture's captions before and after the caption filter."""

    image_id: str | None
    uri: str
    before: list[str]
    after: list[str]


class MaskExample(NamedTuple):
    """One kept picture and its mask: the key of a PNG in the store, None or "" where there is none."""

    image_id: str
    uri: str
    confidence: float | None
    key: str | None


class Profile(NamedTuple):
    """A delivery's distributions: counts by bin of what decoded; its sightings, and how many each filter dropped."""

    resolution: dict[int, int]
    aspect: dict[int, int]
    caption: dict[int, int]
    drops: dict[str, int]  # of the filters that judged anything
    sightings: int


class Reporting(CatalogDatabase):
    """Sums and samples for the report, the checks and the comparison with earlier deliveries."""

    def _all(self, query: str, **values: Any) -> list[Any]:
        with self._transaction() as connection:
            return list(connection.execute(text(query), values))

    def totals(self, delivery: str) -> dict[str, int]:
        """Of the delivery: sightings, images, kept, quarantined, near and semantic copies, pictures they repeat,
        captions changed, captions emptied."""
        query = """
            SELECT (SELECT count(*) FROM sightings WHERE delivery = :d),
                (SELECT count(DISTINCT image_id) FROM sightings WHERE delivery = :d),
                (SELECT count(*) FROM kept WHERE delivery = :d),
                (SELECT count(*) FROM quarantine WHERE delivery = :d),
                (SELECT count(*) FROM copies WHERE delivery = :d AND similarity IS NULL),
                (SELECT count(*) FROM copies WHERE delivery = :d AND similarity IS NOT NULL),
                (SELECT count(DISTINCT "of") FROM copies WHERE delivery = :d),
                count(*) FILTER (WHERE cleaned <> '[]'), count(*) FILTER (WHERE cleaned = '[]')
            FROM sightings WHERE delivery = :d AND cleaned IS DISTINCT FROM captions AND cleaned IS NOT NULL
        """
        names = ("sightings", "images", "kept", "quarantined", "near", "semantic", "groups", "cleaned", "emptied")
        return dict(zip(names, self._all(query, d=delivery)[0], strict=True))

    def funnel(self, delivery: str, order: Sequence[str]) -> list[Fallen]:
        """How many sightings fell at which filter: the first that drops them, by `order` and then by name."""
        return [Fallen(*row) for row in self._all(_FUNNEL, delivery=delivery, order=list(order))]

    def extent(self, delivery: str, filter: str, measure: str = "") -> Extent | None:
        """Where a filter's scores (or its detail's `measure`) lie; None where there is none."""
        values = {"delivery": delivery, "filter": filter, "measure": measure}
        count = "SELECT count(*) FROM verdicts WHERE delivery = :delivery AND filter = :filter"
        (judged,) = self._all(count, delivery=delivery, filter=filter)[0]
        # An image id is a hash: those below a bound are a sample, and all are below "g".
        cut = "g" if judged <= _SAMPLE else f"{int(_SAMPLE / judged * 2**32):08x}"
        number, low, high, first, last = self._all(_EXTENT, cut=cut, **values)[0]
        if not number:
            return None
        return Extent(number, low, high, low if first is None else first, high if last is None else last)

    def histogram(
        self, delivery: str, filter: str, measure: str, low: float, high: float, bins: int, logarithmic: bool
    ) -> list[tuple[int, int]]:
        """(dropped, not dropped) for each of `bins` equal bins from low to high; what lies outside is in the last ones.

        Logarithmic: `low` and `high` are natural logarithms.
        """
        values = {"low": low, "high": high, "bins": bins, "logarithmic": logarithmic}
        counts = [[0, 0] for _ in range(bins)]
        for place, dropped, n in self._all(_HISTOGRAM, delivery=delivery, filter=filter, measure=measure, **values):
            counts[place][0 if dropped else 1] += n
        return [(dropped, rest) for dropped, rest in counts]

    def nearest(
        self, delivery: str, filter: str, measure: str, threshold: float, limit: int
    ) -> tuple[list[Example], list[Example]]:
        """The pictures whose score is closest to the threshold: below it, and at or above it; closest first."""
        values = {"delivery": delivery, "filter": filter, "measure": measure, "threshold": threshold}

        def side(condition: str, order: str) -> list[Example]:
            # One picture may have been met a few times; it is shown once.
            rows = self._all(_NEAREST.format(side=condition, order=order), limit=4 * limit, **values)
            return list({row[0]: Example(*row) for row in reversed(rows)}.values())[::-1][:limit]

        return side("x < :threshold", "DESC"), side("x >= :threshold", "ASC")

    def dropped_examples(self, delivery: str, filter: str, limit: int) -> list[Example]:
        """Pictures that the filter drops, of each of its reasons in turn."""
        return [Example(*row) for row in self._all(_DROPPED, delivery=delivery, filter=filter, limit=limit)]

    def copy_groups(self, delivery: str, limit: int, members: int) -> list[GroupMember]:
        """Up to `members` copies of each of up to `limit` pictures, the least alike first; near and semantic ones in
        turn."""
        return [GroupMember(*row) for row in self._all(_GROUPS, delivery=delivery, limit=limit, members=members)]

    def quarantine_reasons(self, delivery: str, limit: int) -> list[Found]:
        """Up to `limit` examples of each reason for quarantine, the most frequent reason first."""
        return [Found(*row) for row in self._all(_QUARANTINE, delivery=delivery, limit=limit)]

    def caption_fixes(self, delivery: str, limit: int, emptied: bool = False) -> list[CaptionFix]:
        """Captions that were changed, or (`emptied`) of which none was left."""
        return [CaptionFix(*row) for row in self._all(_CAPTIONS, delivery=delivery, limit=limit, emptied=emptied)]

    def mask_counts(self, delivery: str, source: str) -> dict[str, int]:
        """Kept pictures by the state of their mask: "delivered", "cut" (by `source`), "unsure" or "none"."""
        return {row.state: row.n for row in self._all(_MASK_COUNTS, delivery=delivery, source=source)}

    def mask_examples(self, delivery: str, source: str, state: str, limit: int) -> list[MaskExample]:
        """Kept pictures whose mask is "cut" (least sure first), "unsure" (surest first) or "delivered"."""
        order = {"cut": "confidence", "unsure": "confidence DESC", "delivered": "uri"}[state]
        values = {"delivery": delivery, "source": source, "state": state, "limit": limit}
        return [MaskExample(*row) for row in self._all(_MASK_EXAMPLES.format(order=order), **values)]

    def metadata_rows(self, delivery: str, masks: str = "", captions: str = "") -> Iterator[MetadataRow]:
        """One row per sighting by image id, the kept one of each image first; streamed.

        With the masks that the segmenter `masks` cut and the captions that the captioner `captions` wrote.
        """
        values = {"delivery": delivery, "masks": masks, "captions": captions}
        with self._transaction() as connection:
            for row in connection.execution_options(yield_per=2000).execute(text(_METADATA), values):
                yield MetadataRow(*row)

    def sighted(self, sightings: Sequence[int], order: Sequence[str]) -> dict[int, Place]:
        """By their numbers, those of images that were not taken down; of several reasons the first in `order`."""
        rows = self._all(_PLACES, sightings=list(sightings), order=list(order))
        return {row[0]: Place(*row[1:]) for row in rows}

    def earlier_deliveries(self, delivery: str, limit: int) -> list[str]:
        """The last deliveries before this one that keep something, newest first; rendered ones among themselves."""
        return [name for (name,) in self._all(_EARLIER, delivery=delivery, limit=limit)]

    def profiles(self, deliveries: Sequence[str], edges: Mapping[str, Sequence[float]]) -> dict[str, Profile]:
        """Counts by bin, of each delivery. `edges`: of "resolution" (square root of the pixels), "aspect" (width over
        height) and "caption" (characters of the longest); bin k lies from edge k - 1 to edge k.
        """
        values = {name: list(edges[name]) for name in ("resolution", "aspect", "caption")}
        totals = {row[0]: row[1] for row in self._all(_TOTALS, deliveries=list(deliveries))}
        found = {name: Profile({}, {}, {}, {}, totals.get(name, 0)) for name in deliveries}
        for delivery, resolution, aspect, caption, n in self._all(_SHAPES, deliveries=list(deliveries), **values):
            profile = found[delivery]
            for counts, place in (
                (profile.resolution, resolution),
                (profile.aspect, aspect),
                (profile.caption, caption),
            ):
                if place is not None:
                    counts[place] = n
        for delivery, name, dropped in self._all(_DROPS, deliveries=list(deliveries)):
            found[delivery].drops[name] = dropped
        return found
