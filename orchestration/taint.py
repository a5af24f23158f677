"""The champion's page after a takedown: `promotion` says at once whether the champion is tainted, and by which one.

Nothing is materialised for it: the verdict is an observation of the asset and a result of its check `champion_clean`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assets.line import Line


def show_champion(line: Line) -> bool:
    """Writes the verdict of now on the page of `promotion`, where there is a champion; whether it is clean."""
    import dagster as dg

    from assets.promotion import champion_clean
    from deploy.registry import CHAMPION, REGISTERED_NAMES, Registry

    champion = Registry(line.tracking.uri).get_alias(REGISTERED_NAMES["tensorrt_engine"], CHAMPION)
    if champion is None:
        return True
    found = champion_clean(champion)
    page = dg.AssetKey("promotion")
    verdict = dg.AssetCheckEvaluation(
        asset_key=page,
        check_name=found.name,
        passed=found.passed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=found.metadata,
    )
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(verdict)
        instance.report_runless_asset_event(dg.AssetObservation(page, metadata=found.metadata))
    return found.passed
