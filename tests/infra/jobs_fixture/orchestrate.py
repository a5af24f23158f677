"""One orchestrator in a process of its own, for the tests that kill it."""

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import dagster as dg
from fixture_room.specs import CountSpec

from infra.jobs.local import LocalLauncher
from infra.jobs.warm import WarmInterpreter


@contextmanager
def warm_for(state: Path) -> Iterator[WarmInterpreter | None]:
    """A warm interpreter where the state folder is named for it."""
    if state.name != "forked":
        yield None
        return
    with closing(WarmInterpreter(state, ["pydantic", "psutil", "infra.jobs.program"])) as warm:
        warm.start()
        yield warm


def main(state: Path, spec_json: str) -> None:
    """Materialises an asset that runs the counting job."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    spec = CountSpec.model_validate_json(spec_json)

    @dg.asset
    def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with warm_for(state) as warm:
            launcher = LocalLauncher(state, spec.store, grace_s=20, warm=warm)
            result = launcher.run(context=context, room="fixture_room", verb="count", spec=spec, key="counted")
        return dg.MaterializeResult(metadata={"result": json.dumps(result.data)})

    dg.materialize([counted], instance=dg.DagsterInstance.ephemeral())
