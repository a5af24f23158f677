"""What MLflow shows of a stage, and how its page is linked from the asset's.

    experiment backdrop/line          a run for each Dagster run
    experiment backdrop/<asset>       a run for each result, below the Dagster run's; the passes of a training below it

The same thing is logged under the same name everywhere (`loss`, `images_per_second`, `seconds` …), so that MLflow's
charts compare passes, results and stages.
"""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import shown
from assets.about import ABOUT, describe
from assets.line import Line
from assets.stage import Hosted, Stage, may_be_copied
from assets.versions import short
from infra.jobs.events import Metrics
from infra.jobs.spec import JobResult
from infra.mlflow_runs import NOTE_TAG
from infra.settings import REPOSITORY
from infra.sources import source_hash

if TYPE_CHECKING:
    from infra.tracking import Tracking

LINE = "backdrop/line"
_ABOUT_LINE = (
    "One run for each run in Dagster; the stages that it made are runs below it, in the experiments "
    "`backdrop/<asset>`. To compare stages, tick those experiments in the list and choose *Compare*."
)
_DAGSTER_RUN = "backdrop.dagster_run"
_SMALL = "small"  # the folder of a run's artifacts with pictures for the asset's page
_WIDTH, _HEIGHT = 320, 300  # pixels of such a picture, at most
#: Tags that are the same for all stages of a Dagster run.
_OF_RUN = (_DAGSTER_RUN, "backdrop.git_commit")
#: A Dagster run's own tags that say who or what asked for it; the first is a sentence.
_REASON = "backdrop.reason"
_ASKED = (_REASON, "backdrop.causes", "backdrop.automation", "dagster/schedule_name", "dagster/sensor_name")


def start_line(context: dg.AssetExecutionContext, line: Line, tags: Mapping[str, str]) -> str:
    """The MLflow run that stands for the Dagster run."""
    dagster_run, asked = context.run.run_id, context.run.tags
    own = {name: tags[name] for name in _OF_RUN}
    own |= {name.replace("/", "."): asked[name] for name in _ASKED if name in asked}
    own[NOTE_TAG] = f"Dagster run `{dagster_run}`: {asked.get(_REASON, 'asked for by a person')}"
    run = line.tracking.start_group(LINE, f"run {dagster_run[:8]}", own, f"line-{dagster_run}")
    line.tracking.describe_experiment(run, _ABOUT_LINE)

    def goes_on(tagged: Mapping[str, str]) -> bool:
        other = context.instance.get_run_by_id(tagged.get(_DAGSTER_RUN, ""))
        return other is not None and not other.is_finished

    line.tracking.end_others(run, goes_on)
    return run


def experiment_of(uri: str, run: str) -> str:
    """The id of the experiment that an MLflow run is in."""
    from mlflow import MlflowClient

    return str(MlflowClient(uri).get_run(run).info.experiment_id)


def run_tags(context: dg.AssetExecutionContext, stage: Stage, version: str) -> dict[str, str]:
    """What an MLflow run says of the result that it stands for."""
    return {
        "backdrop.asset": stage.asset,
        "backdrop.data_version": version,
        "backdrop.dataset_version": str(stage.dataset_version),
        "backdrop.code_version": short(source_hash(stage.recipe)),
        "backdrop.dagster_run": context.run.run_id,
        "backdrop.git_commit": git_commit(),
    }


def git_commit() -> str:
    """The commit the sources stand at, for the record only; "unknown" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def read_record(line: Line, output: str) -> dict[str, str] | None:
    """Where MLflow shows the result at `output`; None where it does not."""
    key = f"{output}/tracking.json"
    return dict(json.loads(line.store.get(key))) if line.store.exists(key) else None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as MLflow's parameters: dotted names, values cut to what it takes."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = str(value)[:500]
    return found


@dataclass(frozen=True)
class Opened:
    """The MLflow run of a result, and the Dagster run's above it; `tags`: what both say of it."""

    run: str
    above: str
    tags: dict[str, str]

    def finish(self, line: Line, status: str = "FINISHED") -> bool:
        """Whether MLflow has taken everything."""
        return all([line.tracking.finish(self.run, status), line.tracking.finish(self.above, status)])


def open_run(context: dg.AssetExecutionContext, line: Line, stage: Stage, version: str, name: str, key: str) -> Opened:
    """The MLflow run for the job `key`, with what the result is made from; the one that was left open, or a new one."""
    tags = run_tags(context, stage, version)
    above = start_line(context, line, tags)
    run = line.tracking.start_run(f"backdrop/{stage.asset}", name, tags, key, parent=above)
    line.tracking.describe_experiment(run, describe(stage.asset))
    line.tracking.log_params(run, flat(stage.config))
    return Opened(run, above, tags)


class Curves:
    """Sends a job's metrics to its MLflow run; those of a pass to a run of the pass's, below it.

    Recipes name a metric `<pass>/<name>`. A training in one pass calls it as its verb is called.
    """

    def __init__(self, tracking: Tracking, run: str, verb: str) -> None:
        self._tracking, self._run, self._verb = tracking, run, verb
        self._parts: dict[str, str] = {}
        self._last = 0

    def add(self, event: Metrics) -> None:
        """Points of one step."""
        for part, values in by_pass(event.values, self._verb).items():
            if part and part not in self._parts:
                self._parts[part] = self._tracking.start_part(self._run, part)
            run = self._parts[part] if part else self._run
            self._tracking.log_metrics(run, values, event.step)
            if not part:
                self._last = max(self._last, event.step)

    def total(self, numbers: Mapping[str, float]) -> None:
        """The numbers of the asset's page, as the last point of each curve."""
        self._tracking.log_metrics(self._run, numbers, self._last)


def by_pass(values: Mapping[str, float], verb: str) -> dict[str, dict[str, float]]:
    """Pass → its metrics by their plain names; "" for what belongs to the stage itself."""
    found: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        part, _, plain = name.rpartition("/")
        found.setdefault("" if part == verb else part, {})[plain] = value
    return found


def artifact(title: str) -> str:
    """The name of a picture among a run's artifacts."""
    return f"{title.lower().replace(' ', '_')}.png"


def log_pictures(line: Line, run: str, result: JobResult) -> None:
    """The result's pictures and its checks' as artifacts, and small forms of them for the asset's page."""
    for title, key in result.all_pictures.items():
        shows = result.shows.get(key, ())
        log_picture(line, run, artifact(title), key, shows)
        if line.store.exists(key) and may_be_copied(line, shows):
            line.tracking.log_picture(run, f"{_SMALL}/{artifact(title)}", small(line.store.get(key)))


def small(png: bytes) -> bytes:
    """A picture as it fits into the table of an asset's page: made narrower, and cut off below."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, round(picture.height * _WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture = picture.crop((0, 0, picture.width, min(picture.height, _HEIGHT)))
    shown_on = Image.new("RGBA", picture.size, "white")
    shown_on.alpha_composite(picture)
    file = io.BytesIO()
    shown_on.convert("RGB").save(file, "PNG", optimize=True)
    return file.getvalue()


def log_picture(line: Line, run: str, path: str, key: str, shows: Collection[str]) -> None:
    """The picture as an artifact of the MLflow run; one of delivered images as a tag that says where it lies."""
    if not line.store.exists(key):
        return
    if may_be_copied(line, shows):
        line.tracking.log_picture(run, path, line.store.get(key))
    else:
        line.tracking.set_tags(run, {f"backdrop.picture.{path.removesuffix('.png')}": f"{line.store.uri}/{key}"})


def page_name(name: str) -> str:
    """The name of a page among a run's artifacts."""
    return f"{name.replace(' ', '-')}.html"


def log_pages(line: Line, run: str, result: JobResult) -> None:
    """The result's HTML pages as artifacts, which a browser can open; those that show delivered images stay away."""
    for name, key in _pages(line, result).items():
        line.tracking.log_artifact_bytes(run, page_name(name), line.store.get(key))


def links(line: Line, record: Mapping[str, str]) -> dict[str, str]:
    """Title → address: the MLflow run and its charts. `record`: that of the run."""
    runs = f"{line.settings.mlflow_links}/#/experiments/{record['experiment']}/runs"
    return {"MLflow run": f"{runs}/{record['run']}", "compare in MLflow": f"{runs}?compareRunsMode=CHART"}


def page_links(line: Line, record: Mapping[str, str], result: JobResult) -> dict[str, str]:
    """Title → address of the pages that `log_pages` has logged."""
    run = links(line, record)["MLflow run"]
    return {name: f"{run}/artifacts/{page_name(name)}" for name in _pages(line, result)}


def pictures(line: Line, record: Mapping[str, str], result: JobResult) -> dict[str, Hosted]:
    """Title → where MLflow gives a browser the picture."""
    run = links(line, record)["MLflow run"]
    at = f"{line.settings.mlflow_links}/get-artifact?run_uuid={record['run']}&path={_SMALL}/"
    return {t: Hosted(at + artifact(t), f"{run}/artifacts/{artifact(t)}") for t in result.all_pictures}


def version_text(line: Line, stage: Stage, result: JobResult, run: str) -> str:
    """The description of a new model version, in Markdown; an engine's is replaced by its model card."""
    known = shown.numbers(stage.asset, result, {})
    rows = [(name.replace("_", " "), f"{value:,.4g}") for name, value in known.items()]
    parts = shown.passes(result.metadata)
    return "\n\n".join(
        [
            ABOUT[stage.asset].what,
            shown.table(("number", "value"), rows),
            *([shown.table_of_passes(parts)] if parts else []),
            f"Trained on dataset version `{short(str(stage.dataset_version))}`; data version `{short(stage.version)}`; "
            f"MLflow run `{run}`. `backdrop trace` follows it back to the photographs.",
        ]
    )


def describe_model(line: Line, name: str, text: str) -> None:
    """A registered model's description, unless somebody has given it one."""
    from infra.mlflow_runs import MlflowRuns

    MlflowRuns(str(line.settings.mlflow_uri)).describe_model(name, text)


def _pages(line: Line, result: JobResult) -> dict[str, Any]:
    """Name → key of the pages that may be copied."""
    return {
        name: key
        for name, key in result.files.items()
        if key.endswith(".html") and line.store.exists(key) and may_be_copied(line, result.shows.get(key, ()))
    }
