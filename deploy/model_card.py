"""The model card of a version, written from what the catalog and the line's results say: nothing in it is typed in.

Mitchell et al. 2019, "Model Cards for Model Reporting". The Markdown is the version's description on MLflow's page; the
HTML, with the pictures, lies beside the promotion's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from deploy.ancestry import ancestors
from deploy.registry import DESCRIPTION_LENGTH, TAINT_TAG, ModelVersion
from evaluation.report.figures import png
from infra.catalog.catalog import Catalog
from infra.catalog.tracing import OriginCount
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore

_FACTS = ("steps", "parameters", "precision", "seconds", "images_per_second", "device", "ranks", "final_loss")

FAILURES = "Known failures"
"""The title of the evaluation's picture of its worst answers."""

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class Card:
    """What is known of a version, as tables of text. The first row of each table is its head."""

    title: str
    about: str
    warnings: Sequence[str]
    data: Rows
    filters: Rows
    recipe: Rows
    cost: Rows
    metrics: Rows
    missed: Rows
    failures: Rows
    pictures: Sequence[tuple[str, str]] = field(default_factory=list)  # (title, data URI)


def gather(
    store: ObjectStore,
    catalog: Catalog,
    version: ModelVersion,
    evaluation: JobResult,
    stages: Mapping[str, JobResult],
    cost: Mapping[str, float],
) -> Card:
    """The card of an engine. `stages`: asset → its job's result; `cost`: sums over the lineage (`assets.costs`)."""
    models = {model.id: model for model in catalog.models()}
    chain = [models[bundle] for bundle in ancestors(store, version.bundle) if bundle in models]
    datasets = list(dict.fromkeys(model.dataset_version for model in chain))
    counts = [count for dataset in datasets for count in catalog.origin_counts(dataset)]
    withdrawn = {dataset: why for dataset in datasets if (why := catalog.withdrawn(dataset))}
    verdicts = {name: catalog.verdict_counts(name) for name in dict.fromkeys(count.delivery for count in counts)}
    warnings = [f"dataset version {dataset[:12]} was withdrawn: {why}" for dataset, why in withdrawn.items()]
    if tainted := version.tags.get(TAINT_TAG):
        warnings.insert(0, f"trained on what was taken down since: {tainted}")
    return Card(
        title=f"{version.name} version {version.version}",
        about=f"Bundle {version.bundle}; trained from {len(datasets)} dataset version(s): {', '.join(datasets)}.",
        warnings=warnings,
        data=data_rows(counts),
        filters=filter_rows(verdicts),
        recipe=recipe_rows([(model.asset, model.id, model.mlflow_run or "") for model in chain], stages),
        cost=cost_rows(cost, stages),
        metrics=metric_rows(evaluation.data.get("metrics", {})),
        missed=missed_rows(evaluation),
        failures=failure_rows(evaluation),
        pictures=[
            (title, png(store.get(key)))
            for title, key in evaluation.pictures.items()
            if title == FAILURES and store.exists(key)
        ],
    )


def data_rows(counts: Sequence[OriginCount]) -> Rows:
    """Where the pictures are from, the largest part first."""
    head = ("images", "split", "delivery", "kind", "licence", "source")
    rows = [(f"{c.images:,}", c.split, c.delivery, c.kind, c.licence or "–", c.source or "–") for c in counts]
    return [head, *rows]


def filter_rows(verdicts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Rows:
    """What the filters decided, delivery by delivery."""
    rows: Rows = [("delivery", "filter", "decisions")]
    for delivery, filters in verdicts.items():
        for name, decisions in filters.items():
            said = ", ".join(f"{decision} {number:,}" for decision, number in decisions.items())
            rows.append((delivery, name, said))
    return rows


def recipe_rows(chain: Sequence[tuple[str, str, str]], stages: Mapping[str, JobResult]) -> Rows:
    """Each model that this one was made from, nearest first, with the numbers of its training."""
    rows: Rows = [("stage", "bundle", "MLflow run", "facts")]
    for asset, bundle, run in chain:
        found = stages[asset].metadata if asset in stages and bundle in map(str, stages[asset].data.values()) else {}
        facts = {name: value for name, value in found.items() if name.endswith(_FACTS) and "trained" not in name}
        rows.append((asset, bundle[:12], run[:12], _words(facts)))
    return rows


def cost_rows(cost: Mapping[str, float], stages: Mapping[str, JobResult]) -> Rows:
    """GPU-hours and energy of the whole lineage where they were counted, and the hours that its trainings took."""
    rows: Rows = [("what", "how much")]
    rows.append(("GPU-hours", f"{cost['gpu_seconds'] / 3600:.3g}" if "gpu_seconds" in cost else "none counted"))
    if cost.get("preempted_gpu_seconds"):
        rows.append(("of these lost to preemption", f"{cost['preempted_gpu_seconds'] / 3600:.3g}"))
    if "gpu_cost" in cost:
        rows.append(("price", f"{cost['gpu_cost']:.2f}"))
    joules = sum(result.joules for result in stages.values())
    rows.append(("energy", f"{joules / 3.6e6:.3g} kWh" if joules else "not measured: no GPU told"))
    seconds = sum(
        float(value)
        for result in stages.values()
        for name, value in result.metadata.items()
        if name == "seconds" or name.endswith("_seconds")
    )
    rows.append(("hours of its jobs, on any device", f"{seconds / 3600:.3g}"))
    return rows


def metric_rows(metrics: Mapping[str, Any]) -> Rows:
    """Means over the held-out pictures with their 95 % intervals, distances of all of them together, and energy."""
    rows: Rows = [("metric", "mean", "95 % interval", "pictures", "measured by")]
    for name, one in metrics.get("judged", {}).items():
        interval = f"{one['low']:.4g} to {one['high']:.4g}"
        rows.append((name, f"{one['mean']:.4g}", interval, str(one["n"]), measured_words(one)))
    guards = metrics.get("guards", {})
    for name, one in metrics.get("distances", {}).items():
        beside = "–"
        if name in guards:
            beside = f"champion's {guards[name]['champion']['value']:.4g}, p {guards[name]['p']:.2g}"
        rows.append((name.upper(), f"{one['value']:.4g}", beside, str(one["n"]), measured_words(one)))
    if "energy" in metrics:
        rows.append(("energy per picture", energy_words(metrics["energy"]), "–", "–", "–"))
    return rows


def measured_words(number: Mapping[str, Any]) -> str:
    """What a number was measured by: extractor, weights, preprocessing, reference; "–" where it has no extractor."""
    if "extractor" not in number:
        return "–"
    weights, reference = (str(number[name])[:12] for name in ("weights", "reference"))
    return f"{number['extractor']}, weights {weights}, {number['preprocessing']}; reference {reference}"


def energy_words(energy: Mapping[str, Any]) -> str:
    """Joules, watts and the counter that told them, or why they were not measured."""
    if energy["joules"] is None:
        return str(energy["source"])
    return f"{energy['joules']:.3g} J at {energy['watts']:.3g} W ({energy['source']})"


def missed_rows(evaluation: JobResult) -> Rows:
    """Checks of the evaluation that it did not pass."""
    return [("check", "numbers"), *((c.name, _words(c.metadata)) for c in evaluation.checks if not c.passed)]


def failure_rows(evaluation: JobResult) -> Rows:
    """Its worst answers, in the order of the picture."""
    rows: Rows = [("asked for", "scores")]
    for line in evaluation.data.get("failures", []):
        rows.append((str(line["caption"]), _words({k: v for k, v in line.items() if k != "caption"})))
    return rows


_SECTIONS = {
    "metrics": "Metrics",
    "missed": "Checks missed",
    "failures": FAILURES,
    "cost": "Cost",
    "recipe": "Recipe",
    "data": "Data",
    "filters": "Filters",
}
_PAGE_ONLY = frozenset({"failures"})
"""MLflow forgets nothing, and a caption may have to be forgotten with its picture."""


def markdown(card: Card, limit: int = DESCRIPTION_LENGTH) -> str:
    """The card as Markdown of at most `limit` characters: tables lose their last rows, the longest table first."""
    most = {name: len(getattr(card, name)) - 1 for name in _SECTIONS if name not in _PAGE_ONLY}
    while len(text := _markdown(card, most)) > limit and max(most.values()) > 0:
        most[max(most, key=lambda name: most[name])] -= 1
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _markdown(card: Card, most: Mapping[str, int]) -> str:
    parts = [f"# {card.title}", card.about, *(f"**{warning}**" for warning in card.warnings)]
    for section, name in _SECTIONS.items():
        head, *rows = getattr(card, section)
        if not rows or section in _PAGE_ONLY:
            continue
        table = [head, ("---",) * len(head), *rows[: most[section]]]
        lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table]
        if len(rows) > most[section]:
            lines += ["", f"and {len(rows) - most[section]} more (see the card's page)"]
        parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def page(card: Card) -> str:
    """The card as one HTML file that asks for nothing."""
    parts = [f"<h1>{escape(card.title)}</h1><p>{escape(card.about)}</p>"]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in card.warnings]
    for section, name in _SECTIONS.items():
        head, *rows = getattr(card, section)
        parts.append(f"<h2>{name}</h2>")
        if section == "failures":
            parts += [
                f'<figure><img src="{uri}" alt="{escape(title)}"><figcaption>given, over what came back'
                "</figcaption></figure>"
                for title, uri in card.pictures
            ]
        parts.append(_table(head, rows) if rows else "<p>nothing is recorded</p>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(card.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _words(numbers: Mapping[str, Any]) -> str:
    """Numbers as one readable line; tables are left out."""
    plain = {name: value for name, value in numbers.items() if not isinstance(value, (list, dict))}
    said = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in plain.items()}
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem;overflow-wrap:anywhere}h2{margin-top:2rem}.wide{overflow-x:auto}table{border-collapse:collapse}"
    "th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884;vertical-align:top}"
    ".warning{font-weight:600;color:#c33}img{max-width:100%;image-rendering:pixelated}figure{margin:1rem 0}"
)
