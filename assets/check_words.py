"""What each asset check asks, and a result of it in words: what was found beside the bar that it was held against.

asks        the check's description on its page
found       filled with the check's numbers; where one of them is missing the check's note is said instead
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.jobs.spec import EXAMPLES, Check


@dataclass(frozen=True)
class Words:
    """See the module."""

    asks: str
    found: str


_EACH = "{unexpected_count:,} of {element_count:,} pictures ({unexpected_percent:.1f} %) do not; {allowed} may."
_SHARE = "{share:.0%} of the held-out pictures do; at least {bar:.0%} must."
_DRIFT = (
    "The distribution has moved by {shift}; {limit} is the limit, and chance alone explains {chance_explains}. "
    "Compared with {compared_with}."
)


def _each(asks: str, allowed: str) -> Words:
    return Words(asks, _EACH.replace("{allowed}", allowed))


WORDS: dict[str, Words] = {
    # filtered_shards: assets.curation.suite
    "something_is_kept": Words(
        "At least one picture of the delivery passed the filters.",
        "{observed_value:,} pictures were kept; at least 1 must be.",
    ),
    "ids_are_unique": _each("No picture is packed twice.", "none"),
    "ids_are_hashes": _each("Every picture's id is the SHA-256 of its bytes.", "none"),
    "formats_are_known": _each("Every picture is of a format that can be read later.", "none"),
    "sizes_are_in_range": _each("Every kept picture is as large as training needs.", "none"),
    "aspect_ratios_are_in_range": _each("No kept picture is too narrow or too wide.", "none"),
    "captions_are_present": _each("Nearly every picture has a caption.", "5 %"),
    "captions_are_of_sane_length": _each("Captions have at most 1,000 characters.", "1 %"),
    "licences_are_stated": _each("Every picture has a licence.", "none"),
    "masks_are_present": _each("Enough pictures have a product mask to learn from.", "70 %"),
    "most_files_decode": _each("Nearly all files of the delivery can be opened.", "10 %"),
    "most_files_are_kept": _each("At least half of the delivery passes the filters.", "50 %"),
    # filtered_shards: assets.curation.drift
    "resolution_drift": Words("Pictures are as large as in earlier deliveries.", _DRIFT),
    "aspect_drift": Words("Pictures have the shapes of earlier deliveries.", _DRIFT),
    "caption_length_drift": Words("Captions are as long as in earlier deliveries.", _DRIFT),
    "drop_rate_drift": Words("Each filter drops as many pictures as in earlier deliveries.", _DRIFT + " {rates}."),
    "embedding_drift": Words("Pictures show what earlier deliveries show.", _DRIFT),
    # tensorrt_engine and evaluation_report: deploy.parity, deploy.nodes
    "engine_parity": Words(
        "The compiled engine's outputs are those of the PyTorch model.",
        "The worst output, {worst}, differs by {worst_relative_l2:.2g} of its size; at most {tolerance:.2g} may.",
    ),
    "node_parity": Words(
        "Every single operation inside the engine computes what PyTorch computes.",
        "The worst operation, {worst}, differs by {worst_error:.2g} ({kind}); at most {tolerance:.2g} may.",
    ),
    # evaluation_report: deploy.checks
    "wall_colour": Words("The wall has the colour that the caption names.", _SHARE),
    "floor_colour": Words("The floor has the colour that the caption names.", _SHARE),
    "floor_line": Words("Floor and wall meet where the caption's camera sees them meet.", _SHARE),
    "shadow_side": Words("The product's shadow falls away from the light that the caption names.", _SHARE),
    "beats_baselines": Words(
        "The engine is nearer to the true picture than simple ways to fill a background.",
        "The engine's mean error is {engine:.3g}; it must be below each of: {others}.",
    ),
    "student_within_margin": Words(
        "The fast student follows captions nearly as well as its slow teacher.",
        "It is behind by {behind} percentage points; at most {margin:.3g} are allowed.",
    ),
    "object_expansion": Words(
        "Fine-tuning with product masks has made products grow less. It judges the training and never stops an engine.",
        "After it products grow by {share:.0%} of what they grew by before; at most {bar:.0%} may remain.",
    ),
    "product_identity": Words(
        "The product's pixels come out exactly as they went in.",
        "In {identical:.2%} of the pictures they do; it must be 100 %.",
    ),
    "photographs": Words(
        "On real photographs backgrounds have the asked colour, differ from caption to caption, and leave the product "
        "alone.",
        "{border_colour:.0%} have the asked colour (at least {bar:.0%} must), {different:.0%} differ and "
        "{identical:.0%} leave the product alone (all must).",
    ),
    "gate": Words("The engine is better than the champion in one thing and worse in none.", "{reason}"),
    # promotion
    "alias_as_recorded": Words(
        "No alias of the registry was moved by hand, past the ledger.", "Moves that the ledger did not know: {moved}."
    ),
}


def asks(name: str) -> str | None:
    """What a check asks, for its description."""
    return WORDS[name].asks if name in WORDS else None


def in_words(check: Check) -> str:
    """What was found, what the bar was, and what the check's own picture shows, in two or three sentences."""
    words = WORDS.get(check.name)
    if note := check.metadata.get("note"):
        return f"Not measured: {note}." if not check.passed else f"Nothing to judge: {note}."
    if words is None:
        return ""
    try:
        found = words.found.format_map({**check.metadata, **_derived(check.metadata)})
        return " ".join(filter(None, [found, _pictured(check)]))
    except (KeyError, ValueError, TypeError):  # of a comparison that could not be made the numbers are missing
        compared = check.metadata.get("compared_with")
        return f"Nothing to judge. Compared with {compared}." if compared else ""


def _pictured(check: Check) -> str:
    """Of how many failing examples there is a picture; empty for a check that does not judge one by one."""
    failing = check.metadata.get("failing", check.metadata.get("unexpected_count"))
    if failing is None:
        return ""
    if not failing:
        return "No example fails, so there is no picture."
    if check.failures_title not in check.pictures:
        return ""
    return f"The picture shows {min(failing, EXAMPLES)} of the {failing:,} that fail."


def _derived(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Lists of numbers as one piece of a sentence."""
    behind = {name.removeprefix("points_behind_"): v for name, v in numbers.items() if name.startswith("points_behind")}
    floats = {name: value for name, value in numbers.items() if isinstance(value, float)}
    return {
        "behind": ", ".join(f"{value:.3g} ({name.replace('_', ' ')})" for name, value in behind.items()),
        "others": ", ".join(f"{value:.3g} ({name})" for name, value in floats.items() if name != "engine"),
    }
