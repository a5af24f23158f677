"""One orchestrator in a process of its own, for the tests that kill it."""

import json
import os
from pathlib import Path

import dagster as dg
from fixture_room.specs import CountSpec

from infra.jobs.local import LocalLauncher


def main(state: Path, spec_json: str) -> None:
    """Materialises an asset that runs the counting job."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    spec = CountSpec.model_validate_json(spec_json)

    @dg.asset
    def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        launcher = LocalLauncher(state, spec.store, grace_s=20)
        result = launcher.run(context=context, room="fixture_room", verb="count", spec=spec, key="counted")
        return dg.MaterializeResult(metadata={"result": json.dumps(result.data)})

    dg.materialize([counted], instance=dg.DagsterInstance.ephemeral())
