"""What automation writes on a run that it starts: who asked for it, why, and for which causes. Pure.

PostgreSQL takes 2,704 bytes into an entry of the index over Dagster's tags, and a longer value would fail the run: a
reason is cut to what people read, and causes, which have to be found again, take as many tags as they need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

REASON, CAUSES, AUTOMATION = "backdrop.reason", "backdrop.causes", "backdrop.automation"
"""Names of the tags; where causes take several, the second is `backdrop.causes.2`."""
MOST_BYTES = 1_000
"""Of one tag's value."""
_COUNT_BYTES = len("; and 1,000,000 more")


def run_tags(automation: str, reason: str, causes: Sequence[str]) -> dict[str, str]:
    """The tags of a run."""
    asked = {CAUSES if n == 1 else f"{CAUSES}.{n}": held for n, held in enumerate(_in_bundles(causes), 1)}
    return {REASON: _cut(reason), **asked, AUTOMATION: automation}


def causes_in(tags: Mapping[str, str]) -> tuple[str, ...]:
    """The causes that `run_tags` wrote."""
    held = [value for name, value in tags.items() if name == CAUSES or name.startswith(f"{CAUSES}.")]
    return tuple(cause for value in held for cause in value.split(",") if cause)


def listed(parts: Sequence[str]) -> str:
    """Half-sentences as one; those that a tag has no room for are counted."""
    if len("; ".join(parts).encode()) <= MOST_BYTES:
        return "; ".join(parts)
    kept: list[str] = []
    room = MOST_BYTES - _COUNT_BYTES
    for part in parts:
        room -= len(f"{part}; ".encode())
        if kept and room < 0:
            break
        kept.append(part)
    left = len(parts) - len(kept)
    return "; ".join(kept) + (f"; and {left:,} more" if left else "")


def _cut(text: str) -> str:
    data = text.encode()
    return text if len(data) <= MOST_BYTES else data[: MOST_BYTES - len("…".encode())].decode(errors="ignore") + "…"


def _in_bundles(causes: Sequence[str]) -> list[str]:
    """Joined by commas, so many together as one tag holds."""
    bundles: list[str] = []
    for cause in causes:
        if bundles and len(f"{bundles[-1]},{cause}".encode()) <= MOST_BYTES:
            bundles[-1] += f",{cause}"
        else:
            bundles.append(cause)
    return bundles
