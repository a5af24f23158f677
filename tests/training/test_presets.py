"""Presets and specs: typed, mergeable, and readable without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import BackdropError
from infra.layers import merge
from training.presets import known_presets, load_preset
from training.presets.sections import FlowSection, Preset


def test_every_preset_loads_and_keeps_its_name() -> None:
    assert {"tiny", "nano"} <= set(known_presets())
    for name in known_presets():
        assert load_preset(name).name == name


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(BackdropError, match="'nano'"):
        load_preset("nanoo")


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_overrides_are_merged_key_by_key(tmp_path: Path) -> None:
    plain = load_preset("nano")
    mine = load_preset("nano", write(tmp_path, "pretrain: {steps: 7}\nseed: 3\n"))
    assert (mine.pretrain.steps, mine.seed) == (7, 3)
    assert mine.pretrain.batch_size == plain.pretrain.batch_size
    assert mine.autoencoder == plain.autoencoder
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}) == {"a": {"b": 1, "c": 3}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pretrain: {stpes: 7}", "'pretrain.stpes'. Did you mean 'steps'"),
        ("pretain: {steps: 7}", "'pretain'. Did you mean 'pretrain'"),
        ("finetune: {product_masks: {rankk: 3}}", "Did you mean 'rank'"),
        ("pretrain: {steps: many}", "'pretrain.steps'"),
        ("pretrain: {steps: 0}", "greater than or equal to 1"),
        ("distil: {other_steps: {4: 0.3}}", "to 4 steps, but these are student_steps"),
        ("evaluate: {gate: {margins: {seam: 0}}}", "greater than 0"),
        ("pretrain: [", "not valid YAML"),
        ("- a list", "not a mapping"),
    ],
)
def test_a_wrong_configuration_is_one_message_with_the_key_and_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BackdropError) as caught:
        load_preset("nano", path)
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def stages(preset: Preset) -> list[FlowSection]:
    """Every section that trains, or trains on, the transformer."""
    found = [*vars(preset).values(), *vars(preset.finetune).values(), *vars(preset.personalise).values()]
    return [section for section in found if isinstance(section, FlowSection)]


@pytest.mark.parametrize(("name", "base"), [("nano", 0), ("small", 1024), ("base", 1024)])
def test_every_stage_of_one_model_shifts_its_times_alike(name: str, base: int) -> None:
    found = stages(load_preset(name))
    assert len(found) == 8
    assert {section.shift_base for section in found} == {base}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"nowhere\.yaml"):
        load_preset("nano", tmp_path / "nowhere.yaml")


def test_sections_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Preset(name="x").seed = 1  # type: ignore[misc]


def test_presets_specs_and_the_command_line_load_without_torch() -> None:
    code = (
        "import sys, training.presets, training.specs, training.__main__;"
        "heavy = {'torch', 'composer', 'streaming', 'transformers', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
