"""How an asset is made: compute its data version, reuse a committed result or launch the job, show what came back.

    upstream results ─► data version ─► committed already? ─► yes: show it
                                                          └► no: spec ─► job ─► result.json ─► show it

A result counts once its ``result.json`` stands in the object store; the job writes it last. So a re-run after any
interruption finishes exactly what is missing, and a re-run with nothing changed trains nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets import check_words, costs, shown
from assets.line import Line
from assets.versions import data_version, short
from infra.errors import BackdropError
from infra.jobs.folder import job_folder, safe_key
from infra.jobs.spec import Check, JobResult

#: Pictures up to this size travel inside Dagster's event; larger ones, and those of delivered images, are named.
INLINE_BYTES = 400_000
_SHORT = 1_000  # characters: Dagster shows Markdown up to here without a click


@dataclass(frozen=True)
class Stage:
    """One job of one asset. `config` holds whatever, beside sources and inputs, decides the result."""

    asset: str
    room: str
    verb: str
    recipe: str
    upstream: Mapping[str, str]
    config: Mapping[str, Any]
    memoise: bool = True
    dataset_version: str | None = None

    @property
    def version(self) -> str:
        return data_version(self.recipe, upstream=self.upstream, config=self.config)


@dataclass(frozen=True)
class Hosted:
    """Where a browser finds a picture: a small form of it, and the page of the whole."""

    small: str
    page: str


@dataclass(frozen=True)
class Upstream:
    """The latest materialisation of an asset: its data version, what its job left, and from which dataset version."""

    asset: str
    data_version: str
    result: JobResult
    result_key: str
    dataset_version: str | None

    @property
    def output(self) -> str:
        return self.result_key.rpartition("/")[0]


def output_prefix(asset: str, version: str, partition: str | None) -> str:
    return "/".join(["stages", asset, *([partition] if partition else []), short(version)])


def upstream_of(context: dg.AssetExecutionContext, line: Line, asset: str, partition: str | None = None) -> Upstream:
    """The input named `asset`. Raises BackdropError when it was never materialised or its result has gone."""
    found = latest_metadata(context.instance, asset, partition)
    where = f"{asset}[{partition}]" if partition else asset
    if found is None:
        raise BackdropError(f"{where} has not been materialised yet", f"materialise {asset} first")
    key = found["result"]
    if not line.store.exists(key):
        raise BackdropError(
            f"the result of {where} is gone from the object store ({key})", f"materialise {asset} again"
        )
    result = JobResult.model_validate_json(line.store.get(key))
    return Upstream(asset, found["data_version"], result, key, found.get("dataset_version"))


def latest_metadata(instance: dg.DagsterInstance, asset: str, partition: str | None = None) -> dict[str, Any] | None:
    """Our own metadata of the newest materialisation, as plain values."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None),
        limit=1,
    ).records
    if not records or records[0].asset_materialization is None:
        return None
    return {name: value.value for name, value in records[0].asset_materialization.metadata.items()}


def job_key(asset: str, version: str, partition: str | None = None) -> str:
    return "-".join([asset, *([partition] if partition else []), short(version)])


def committed(line: Line, output: str) -> JobResult | None:
    key = f"{output}/result.json"
    if not line.store.exists(key):
        return None
    return JobResult.model_validate_json(line.store.get(key))


def commit_result(
    context: dg.AssetExecutionContext, line: Line, asset: str, version: str, result: JobResult
) -> dg.MaterializeResult:
    """For an asset that needs no job: its result is written as a job's would be."""
    key = put_result(line, asset, version, result)
    return present(context, line, version, key, result, reused=False, dataset=version)


def put_result(line: Line, asset: str, version: str, result: JobResult) -> str:
    """Commits the result of an asset without partitions; its key."""
    key = f"{output_prefix(asset, version, None)}/result.json"
    line.store.put(key, result.model_dump_json(indent=1).encode())
    return key


def present(
    context: dg.AssetExecutionContext,
    line: Line,
    version: str,
    result_key: str,
    result: JobResult,
    *,
    reused: bool,
    dataset: str | None = None,
    links: Mapping[str, str] | None = None,
    upstream: Collection[str] = (),
    log: str | None = None,
    hosted: Mapping[str, Hosted] | None = None,
) -> dg.MaterializeResult:
    """A job's result as the asset's page shows it: pictures, numbers that plot over time, links, checks.

    Args:
        log: where the job's log lies.
        hosted: title → where a browser can fetch the picture; the page shows such a one without a click, because its
            entry is short.
    """
    register_shown(line, result.shows)
    asset, output = _asset_of(result_key), result_key.rpartition("/")[0]
    pictures = {
        title: _picture(line, title, key, result.shows.get(key, ()), (hosted or {}).get(title))
        for title, key in result.all_pictures.items()
    }
    cost = costs.shown(costs.spent(line.store, output, upstream), output)
    numbers = shown.numbers(asset, result, cost)
    metadata: dict[str, Any] = {**{title: pictures[title] for title in result.pictures}, **_tables(result)}
    metadata |= {name: dg.MetadataValue.url(url) for name, url in (links or {}).items()}
    metadata |= numbers
    if missing := shown.unmeasured(asset, numbers, result):
        metadata["not measured"] = missing
    metadata |= {name: dg.MetadataValue.path(where(line, key)) for name, key in _pages(result).items()}
    if log:
        metadata["job log"] = dg.MetadataValue.path(log)
    metadata |= shown.details(asset, result, numbers)
    metadata |= {"data_version": version, "result": result_key, "reused": reused} | cost
    if dataset:
        metadata["dataset_version"] = dataset
    if reused:
        context.log.info("nothing changed: the committed result is used again")
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(version),
        check_results=[_check(check, pictures) for check in result.checks],
    )


def _asset_of(result_key: str) -> str:
    """The asset in "stages/<asset>/…/result.json"."""
    return result_key.split("/")[1]


def _tables(result: JobResult) -> dict[str, dg.MarkdownMetadataValue]:
    """The passes of a training, the filters of a delivery: read as tables, not as a dozen numbers each."""
    parts, funnel = shown.passes(result.metadata), result.data.get("funnel")
    tables = {
        **({"passes": shown.table_of_passes(parts)} if parts else {}),
        **({"what each filter dropped": shown.table_of_funnel(funnel)} if funnel else {}),
    }
    return {name: dg.MetadataValue.md(text) for name, text in tables.items()}


def _pages(result: JobResult) -> dict[str, str]:
    """Files by the names of their entries; pages to read come before what programs read."""
    names = sorted(result.files, key=lambda name: not result.files[name].endswith(".html"))
    return {f"file: {name}": result.files[name] for name in names}


def _check(check: Check, pictures: Mapping[str, dg.MetadataValue[Any]]) -> dg.AssetCheckResult:
    """With what was found in words, and its pictures: short ones are seen without a click."""
    mine = {title: pictures[title] for title in check.pictures}
    seen = [str(one.value) for one in mine.values() if isinstance(one, dg.MarkdownMetadataValue)]
    said = "\n\n".join(filter(None, [check_words.in_words(check), *(text for text in seen if len(text) < _SHORT)]))
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.ERROR if check.severity == "error" else dg.AssetCheckSeverity.WARN,
        description=said or None,
        metadata={**mine, **check.metadata},
    )


def log_of(line: Line, key: str) -> str | None:
    """Where the log of the job `key` lies, for people; None where there is none any more."""
    if line.settings.launcher == "kubernetes":
        prefix = f"logs/{safe_key(key)}/"
        return f"{line.store.uri}/{prefix}" if any(True for _ in line.store.list(prefix)) else None
    log = job_folder(line.settings.state, key).log
    return str(log) if log.exists() else None


def register_shown(line: Line, shows: Mapping[str, Collection[str]]) -> None:
    """Record which images the stored pictures show, so that a takedown finds them."""
    there = {key: ids for key, ids in shows.items() if ids and line.store.exists(key)}
    if there:
        line.catalog.add_shown(there)


def may_be_copied(line: Line, shows: Collection[str]) -> bool:
    """Whether a picture that shows these images may go where nothing is forgotten (Dagster's events, MLflow).

    Charts and generated pictures may, and pictures of rendered catalogues: nobody can ask for those to be taken down.
    """
    return not shows or line.catalog.all_rendered(shows)


def where(line: Line, key: str) -> str:
    """Where people find an object: its path on this machine, or its URI."""
    local = line.store.local_path(key)
    return str(local) if local else f"{line.store.uri}/{key}"


def _picture(line: Line, title: str, key: str, shows: Collection[str], hosted: Hosted | None) -> dg.MetadataValue[Any]:
    if not line.store.exists(key):
        return dg.MetadataValue.text("taken down" if shows else "gone from the object store")
    if not may_be_copied(line, shows):
        return dg.MetadataValue.path(where(line, key))
    if hosted:
        return dg.MetadataValue.md(f"[![{title}]({hosted.small})]({hosted.page})")
    if line.store.size(key) > INLINE_BYTES:
        return dg.MetadataValue.path(where(line, key))
    png = base64.b64encode(line.store.get(key)).decode()
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{png})")
