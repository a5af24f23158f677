"""Reads a delivery out of the catalog into the page's plain data: sums by the database, examples by the handful."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from assets.curation.drift import EDGES, EMBEDDING, LABELS, Comparison, Drift, bin_names
from assets.curation.report.figures import BINS, choose_axis, histogram, number, two_distributions
from assets.curation.report.page import Chart, DeliveryReport, Dirt, FilterCard, Fix, Group, Picture, Shift
from infra.jobs.spec import Check

if TYPE_CHECKING:
    from infra.catalog import Catalog
    from infra.catalog.reporting import Example, Fallen, Found, GroupMember

NEAR, EXAMPLES, GROUPS, MEMBERS, DIRT, FIXES, MASKS = 6, 6, 12, 4, 5, 12, 12
"""How many of each the page shows: enough to see a pattern, few enough to look at."""

_FIRST, _LAST = ("read", "decode", "takedown"), ("exact duplicate", "near duplicate", "semantic duplicate")
_NO_CHART = {"takedown", "read", "decode", "exact duplicate"}  # their scores are counts, not measures


@dataclass(frozen=True)
class Threshold:
    """A line that a filter draws. `measure`: the number in the verdict's detail that it is drawn through, "" for the
    score; `drops`: the side that is dropped; `label`: what is measured, in words; `unit` behind the number.
    """

    value: float
    drops: Literal["below", "above"]
    label: str = "score"
    measure: str = ""
    unit: str = ""

    @property
    def words(self) -> str:
        return f"{number(self.value)}{' ' + self.unit if self.unit else ''}"


@dataclass
class Wanted:
    """The thumbnails that the page asks for: name → where the picture is read, and its mask's key ("" for none)."""

    of: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # name → (image id, uri, mask key)

    def add(self, image_id: str, uri: str | None, mask: str = "") -> str:
        name = f"{image_id}-mask" if mask else image_id
        if uri:
            self.of.setdefault(name, (image_id, uri, mask))
        return name


def gather(
    catalog: Catalog,
    delivery: str,
    thresholds: Mapping[str, Sequence[Threshold]],
    masks: str,
    checks: Sequence[Check],
    drift: Comparison,
    wanted: Wanted,
) -> tuple[DeliveryReport, set[str]]:
    """The page without its thumbnails, which `wanted` collects, and the images whose names or captions it quotes."""
    totals = catalog.totals(delivery)
    counts = catalog.verdict_counts(delivery)
    order = [*_FIRST, *(name for name in thresholds if name not in _LAST), *sorted(set(counts) - set(_LAST)), *_LAST]
    fallen = catalog.funnel(delivery, list(dict.fromkeys(order)))
    funnel = [(name, found[0].total, _reasons(found)) for name, found in _by_filter(fallen)]
    dropped = sum(count for _, count, _ in funnel)
    why = {name: reasons for name, _, reasons in funnel}
    cards = [
        _card(catalog, delivery, name, counts[name], why.get(name, []), thresholds.get(name, ()), wanted)
        for name in dict.fromkeys(order)
        if name in counts and _judged(counts[name])
    ]
    shown = [card for card in cards if card.charts or card.examples]
    dirt = catalog.quarantine_reasons(delivery, DIRT)
    fixes, emptied = catalog.caption_fixes(delivery, FIXES), catalog.caption_fixes(delivery, FIXES, emptied=True)
    states = catalog.mask_counts(delivery, masks)
    found = catalog.delivery(delivery)
    quoted = {
        image_id for image_id in [one.image_id for one in dirt] + [one.image_id for one in fixes + emptied] if image_id
    }
    report = DeliveryReport(
        name=delivery,
        facts=[("From", found.uri), ("Kind", found.kind), ("Added", f"{found.added_at:%Y-%m-%d %H:%M}")]
        if found
        else [],
        arrived=totals["sightings"],
        kept=totals["kept"],
        tiles=_tiles(totals, counts, states),
        funnel=funnel,
        undecided=totals["sightings"] - dropped - totals["kept"],
        checks=checks,
        filters=shown,
        quiet=[card.name for card in cards if card not in shown],
        not_scored=[name for name in counts if not _judged(counts[name])],
        groups=_groups(catalog, delivery, wanted),
        group_count=totals["groups"],
        near_count=totals["near"],
        semantic_count=totals["semantic"],
        dirt=_dirt(dirt),
        fixes=[Fix(file_name(one.uri), one.before, one.after) for one in fixes],
        fix_count=totals["cleaned"],
        emptied=[Fix(file_name(one.uri), one.before, one.after) for one in emptied],
        emptied_count=totals["emptied"],
        masks=[(_MASK_WORDS[state], states[state]) for state in _MASK_WORDS if state in states],
        sure=_mask_pictures(catalog, delivery, masks, "cut", wanted),
        unsure=_mask_pictures(catalog, delivery, masks, "unsure", wanted),
        earlier=drift.earlier,
        shifts=[_shift(one) for one in drift.drifts],
    )
    return report, quoted


_MASK_WORDS = {
    "delivered": "came with the picture",
    "cut": "cut here, sure",
    "unsure": "unsure, so none is used",
    "none": "not looked for",
}


def file_name(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def _by_filter(fallen: Sequence[Fallen]) -> Iterable[tuple[str, list[Fallen]]]:
    return ((name, list(found)) for name, found in groupby(fallen, key=lambda one: one.filter))


def _reasons(found: Sequence[Fallen]) -> list[tuple[str, int]]:
    """The most frequent reasons; reasons that only repeat the filter's name say nothing."""
    return [(one.reason, one.number) for one in found[:5] if one.reason and one.reason != one.filter]


def _judged(counts: Mapping[str, int]) -> int:
    return sum(number for decision, number in counts.items() if decision != "not scored")


def _card(
    catalog: Catalog,
    delivery: str,
    name: str,
    counts: Mapping[str, int],
    reasons: Sequence[tuple[str, int]],
    thresholds: Sequence[Threshold],
    wanted: Wanted,
) -> FilterCard:
    charts = []
    measures = {line.measure: [one for one in thresholds if one.measure == line.measure] for line in thresholds}
    for measure, lines in ({} if name in _NO_CHART else measures or {"": []}).items():
        chart = _chart(catalog, delivery, name, measure, lines, wanted)
        charts += [chart] if chart else []
    # Where no line is drawn there is nothing to be close to: show what went, reason by reason.
    shows = counts.get("drop") and name not in ("decode", *_LAST) and not any(chart.failed for chart in charts)
    examples = catalog.dropped_examples(delivery, name, EXAMPLES) if shows else []
    return FilterCard(
        name=name,
        judged=_judged(counts),
        dropped=counts.get("drop", 0),
        others=[(decision, counts[decision]) for decision in ("fix", "unsure") if counts.get(decision)],
        reasons=reasons,
        charts=charts,
        examples=[_picture(one, one.reason, wanted, "bad") for one in examples],
    )


def _chart(
    catalog: Catalog, delivery: str, name: str, measure: str, lines: Sequence[Threshold], wanted: Wanted
) -> Chart | None:
    extent = catalog.extent(delivery, name, measure)
    if extent is None or (extent.low == extent.high and not lines):
        return None
    axis = choose_axis(extent.low, extent.high, extent.first, extent.last, [line.value for line in lines])
    ends = [axis.lift(axis.low), axis.lift(axis.high)]
    counts = catalog.histogram(delivery, name, measure, ends[0], ends[1], BINS, axis.logarithmic)
    failed, passed = [], []
    for line in lines:
        below, above = catalog.nearest(delivery, name, measure, line.value, max(2, NEAR // len(lines)))
        bad, good = (below, above) if line.drops == "below" else (above, below)
        failed += [_picture(one, _score(one, line, True), wanted, "bad") for one in bad]
        passed += [_picture(one, _score(one, line, False), wanted, "good") for one in good]
    title = lines[0].label if lines else (measure or "score")
    rule = "; ".join(f"dropped {line.drops} {line.words}" for line in lines)
    svg = histogram(counts, axis, [(line.value, line.words) for line in lines])
    return Chart(title, svg, rule, failed, passed)


def _score(one: Example, line: Threshold, beyond: bool) -> str:
    """The score in words, and why; a filter may have a second reason to drop a picture, or one to let it pass."""
    dropped = one.decision == "drop"
    why = one.reason.partition(":")[0] if dropped else "let pass" if beyond else ""
    return f"{number(one.score or 0.0)}{' ' + line.unit if line.unit else ''}{' · ' + why if why else ''}"


def _picture(one: Example, label: str, wanted: Wanted, tone: str) -> Picture:
    return Picture(wanted.add(one.image_id, one.uri), label, file_name(one.uri), tone)


def _groups(catalog: Catalog, delivery: str, wanted: Wanted) -> list[Group]:
    groups = []
    for of, found in groupby(catalog.copy_groups(delivery, GROUPS, MEMBERS), key=lambda one: one.of):
        members = list(found)
        first = members[0]
        stayed = Picture(wanted.add(of, first.of_uri), "stays", file_name(first.of_uri or of[:12]), "good")
        copies = [
            Picture(
                wanted.add(one.image_id, one.uri),
                _likeness(one) + (" · better, but not swapped" if one.better else ""),
                file_name(one.uri or one.image_id[:12]),
                "bad",
            )
            for one in members
        ]
        groups.append(Group(stayed, copies, first.copies))
    return groups


def _likeness(one: GroupMember) -> str:
    if one.similarity is not None:
        return f"similarity {one.similarity:.3f}"
    return f"{one.distance} bits · {number(round(one.residual or 0.0, 1))} grey levels"


def _dirt(found: Sequence[Found]) -> list[Dirt]:
    dirt = []
    for reason, group in groupby(found, key=lambda one: one.reason):
        rows = list(group)
        names = [(file_name(one.uri), one.detail) for one in rows]
        dirt.append(Dirt(reason, rows[0].number, _size(rows[0].bytes), names))
    return dirt


def _mask_pictures(catalog: Catalog, delivery: str, masks: str, state: str, wanted: Wanted) -> list[Picture]:
    return [
        Picture(
            wanted.add(one.image_id, one.uri, one.key or ""),
            f"{one.confidence:.0%} sure" if one.confidence is not None else "",
            file_name(one.uri),
            "good" if state == "cut" else "",
        )
        for one in catalog.mask_examples(delivery, masks, state, MASKS)
    ]


def _tiles(
    totals: Mapping[str, int], counts: Mapping[str, Mapping[str, int]], masks: Mapping[str, int]
) -> list[tuple[str, str, str]]:
    exact = counts.get("exact duplicate", {}).get("drop", 0)
    tiles = [
        ("Arrived", f"{totals['sightings']:,}", f"{totals['images']:,} different files"),
        ("Kept", f"{totals['kept']:,}", "packed for training or held out"),
        ("Quarantined", f"{totals['quarantined']:,}", "could not be decoded"),
        ("Exact copies", f"{exact:,}", "the same bytes"),
        ("Near copies", f"{totals['near']:,}", "the same picture"),
        *([("Semantic copies", f"{totals['semantic']:,}", "the same to the embedder")] if totals["semantic"] else []),
        ("Captions", f"{totals['cleaned'] + totals['emptied']:,}", f"changed; {totals['emptied']:,} left without one"),
    ]
    usable = masks.get("delivered", 0) + masks.get("cut", 0)
    return [*tiles, ("Masks", f"{usable:,}", f"{masks.get('unsure', 0):,} unsure")] if masks else tiles


def _shift(one: Drift) -> Shift:
    key = next((key for key, label in LABELS.items() if label == one.name), None)
    noise = f"{one.noise:.3f}" if math.isfinite(one.noise) else "all"
    shift = "squared distance of the means over the variance" if one.name == EMBEDDING else "shift"
    words = f"{shift} {one.shift:.3f}, of which chance explains up to {noise}; limit {one.limit:g}"
    if key is None and one.now:
        words = f"{one.before[0]:.1%} before, {one.now[0]:.1%} now · {words}"
    chart = (
        two_distributions(one.before, one.now, bin_names(key)) if key and len(one.now) == len(EDGES[key]) + 1 else ""
    )
    return Shift(one.name, one.drifted, words, chart)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
