"""What makes the data version of a stage that trains: what its job reads, and not where that lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.training_job import inputs_of, versioned
from infra.jobs.spec import JobSpec
from training.presets import load_preset
from training.specs import AutoencoderSpec, LatentsSpec, PretrainSpec
from training.text_source import WHEEL_SHA256

VERSIONS = {"autoencoder": "a1", "latent_shards": "l1"}


def encoder(folder: Path, weights: bytes) -> str:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_bytes(b"{}")
    return str(folder)


def version(spec: type[JobSpec], text_encoder: str | None) -> tuple[object, object]:
    """The parts of a stage's data version that its text encoder may change."""
    preset = load_preset("tiny")
    config = preset.latents if spec is LatentsSpec else preset.pretrain
    values = {
        **{"dataset": "d", "latents": "l", "autoencoder": "a", "image_size": 64, "seed": 0},
        **{"text_encoder": text_encoder, "dit": preset.dit},
        "config": preset.autoencoder if spec is AutoencoderSpec else config,
    }
    fields = {name: value for name, value in values.items() if name in spec.model_fields}
    return inputs_of(spec, VERSIONS, text_encoder), versioned(spec, fields)


def test_another_text_encoder_makes_no_other_autoencoder(tmp_path: Path) -> None:
    one, other = encoder(tmp_path / "one", b"one"), encoder(tmp_path / "other", b"other")
    assert version(AutoencoderSpec, one) == version(AutoencoderSpec, other) == version(AutoencoderSpec, None)
    assert inputs_of(AutoencoderSpec, {}, one) == {}


@pytest.mark.parametrize("spec", [LatentsSpec, PretrainSpec])
def test_the_text_encoder_counts_by_its_weights_wherever_they_lie(spec: type[JobSpec], tmp_path: Path) -> None:
    here, moved = encoder(tmp_path / "here", b"one"), encoder(tmp_path / "there" / "moved", b"one")
    assert version(spec, here) == version(spec, moved)
    assert version(spec, here) != version(spec, encoder(tmp_path / "other", b"other"))
    assert version(spec, here) != version(spec, None)
    assert inputs_of(spec, VERSIONS, None) == {"autoencoder": "a1", "text_encoder": WHEEL_SHA256}
