"""The specs of the deploy room's jobs. Importable without torch."""

from __future__ import annotations

from pydantic import Field

from deploy.manifest import Trust
from infra.jobs.spec import JobSpec
from training.presets.sections import EvaluateSection, ExportSection

#: Names of the checks that the verbs report, in the order shown.
EXPORT_CHECKS = ("engine_parity", "node_parity")
CHECKS = (
    "wall_colour",
    "floor_colour",
    "floor_line",
    "shadow_side",
    "beats_baselines",
    "student_within_margin",
    "object_expansion",
    "product_identity",
    "photographs",
    "engine_parity",
    "node_parity",
    "gate",
)


class ExportSpec(JobSpec):
    """Turn the student into an engine.

    Result data: {"engine": bundle id, "plans": cache key → bundle id, "backend", "parity", "latency_ms"}.
    """

    autoencoder: str
    masked_decoder: str | None = Field(None, description="decodes with the kept picture in sight, where there is one")
    student: str
    text_encoder: str | None = None
    image_size: int
    config: ExportSection
    seed: int = 0
    trust: Trust = Field(Trust(), description="whose plans may be refitted, and the catalog's rows")
    probe: str = Field(description="dataset version whose held-out pictures feed the parity check")
    buckets: tuple[str, ...] = Field((), description="aspect ratios that plans are built for; none: squares")


class EvaluateSpec(JobSpec):
    """Measure an engine. Result data: {"metrics": {...}, "passed": bool}; file "report": the HTML page."""

    dataset: str
    engine: str
    trust: Trust = Field(Trust(), description="whose signature the engine must bear, and the catalog's rows")
    champion: str | None = Field(None, description="the engine that serves now; None: there is none")
    judges: dict[str, str] = Field({}, description="path of labels or weights that judge → hash of what lies there")
    champion_tainted: str = Field("", description="why the champion has to go if nothing is worse; empty: it need not")
    teacher: str
    stage1: str | None = Field(None, description="the teacher as it was before the second stage of its fine-tune")
    autoencoder: str
    text_encoder: str | None = None
    image_size: int
    config: EvaluateSection
    seed: int = 0
    preset: str = ""
    delivery_results: dict[str, str] = Field(default={}, description="delivery → key of its filter job's result.json")
    stage_results: dict[str, str] = Field(default={}, description="asset key → key of its job's result.json")
