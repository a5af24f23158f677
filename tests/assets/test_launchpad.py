"""What the launchpad knows of a stage's settings, and what it refuses."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from assets.launchpad import overrides
from training.presets import load_preset
from training.presets.section import Section
from training.presets.sections import Preset

SECTIONS = ["autoencoder", "latents", "pretrain", "finetune", "distil", "personalise", "export", "evaluate"]


def field(name: str) -> dg.Field:
    preset = load_preset("nano")
    section: Section = getattr(preset, name)
    return overrides(type(section), section.model_dump(), "nano")


def checked(name: str, given: Any) -> Any:
    """What Dagster makes of `given`, or its words against it."""
    from dagster._config import validate_config

    found = validate_config(field(name).config_type, given)
    return found.value if found.success else " ".join(error.message for error in found.errors or [])


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_of_a_section_has_a_type_and_says_what_stands(name: str) -> None:
    kind = Preset.model_fields[name].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, Section)
    fields = field(name).config_type.fields  # type: ignore[attr-defined]
    assert set(fields) == set(kind.model_fields)
    assert not any(one.is_required for one in fields.values())
    # The preset's own values are ones that the launchpad would take.
    assert checked(name, getattr(load_preset("nano"), name).model_dump(mode="json")) is not None


def test_meaning_limits_choices_and_the_presets_value_are_said() -> None:
    fields = field("autoencoder").config_type.fields  # type: ignore[attr-defined]
    assert fields["steps"].description == "at least 1; nano: 560"
    assert fields["factor"].description == "pixels per latent cell along one side; one of 4, 8, 16, 32; nano: 8"
    assert fields["optimiser"].description.endswith("one of adamw, muon; nano: adamw")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("autoencoder", {"stepz": 3}, "stepz"),
        ("autoencoder", {"steps": "many"}, "many"),
        ("autoencoder", {"optimiser": "sgd"}, "sgd"),
        ("finetune", {"product_masks": {"rank": 1.5}}, "1.5"),
    ],
)
def test_a_wrong_key_type_or_choice_is_refused_while_it_is_typed(name: str, given: Any, words: str) -> None:
    found = checked(name, given)
    assert isinstance(found, str)
    assert words in found


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("autoencoder", {"learning_rate": 1, "crop": None}),
        ("distil", {"other_steps": {8: 0.2}}),
        ("export", {"batch_sizes": [1, 2], "tensorrt": {"refittable": True}}),
        ("finetune", {"curated": None, "product_masks": {"steps": 3}}),
        ("evaluate", {"gate": {"margins": {"adherence": 0.1}}}),
    ],
)
def test_only_what_was_asked_for_comes_out(name: str, given: Any) -> None:
    assert checked(name, given) == given
