"""What the launchpad knows of a stage's settings, and what it refuses."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from assets.launchpad import Asked, asked_in, overrides
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


def test_every_stage_with_a_section_shows_it_and_reads_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from assets import autoencoder as module
    from assets.training_job import chosen_section
    from infra.errors import BackdropError
    from orchestration.definitions import LINEAGE

    shown = {
        asset.key.to_user_string()
        for asset in LINEAGE
        if "overrides" in getattr(asset.op.config_schema.as_field().config_type, "fields", {})
    }
    assert shown == {
        "autoencoder", "latent_shards", "pretrained_dit", "inpainting_finetune", "distilled_model", "tensorrt_engine",
        "evaluation_report", "personalized_model",
    }  # fmt: skip

    seen = []

    def launch(context: dg.AssetExecutionContext, line: object, **_: object) -> dg.MaterializeResult:
        seen.append(asked_in(context))
        return dg.MaterializeResult()

    monkeypatch.setattr(module, "launch_recipe", launch)
    config = {"overrides": {"steps": 3, "optimiser": "muon", "crop": None}, "adopt": True}
    run_config = {"ops": {"autoencoder": {"config": config}}}
    given: dict[str, Any] = {"resources": {"line": object()}, "instance": dg.DagsterInstance.ephemeral()}
    assert dg.materialize([module.autoencoder], run_config=run_config, **given).success
    assert dg.materialize([module.autoencoder], **given).success
    assert seen == [Asked(config["overrides"], True), Asked({}, False)]  # type: ignore[arg-type]
    # What only pydantic knows is refused when the run starts, in words.
    with pytest.raises(BackdropError, match=r"steps.*greater than or equal to 1"):
        chosen_section(load_preset("nano"), "autoencoder", {"steps": 0})
    # A default that follows from another key follows from what was asked for.
    assert chosen_section(load_preset("nano"), "distil", {"student_steps": 2}).other_steps == {8: 0.2, 1: 0.1}  # type: ignore[attr-defined]
