"""The autoencoder's recipe with its options, its sweep, and a diffusers folder: stopping, resuming, what comes out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from infra import images
from infra.errors import BackdropError
from infra.jobs.program import Preempted
from tests.training.test_diffusers_vae import write
from tests.training.test_recipes import SIZE, Line
from training import specs
from training.presets.sections import AutoencoderSection

pytestmark = pytest.mark.integration
LOOP = {"steps": 6, "batch_size": 8, "ema": 0.5, "warmup": 1, "log_every": 2}
SMALL = {**LOOP, "width": 8, "depth": 1}
EVERYTHING = {
    "perceptual": {"features": "random", "weight": 0.1},
    "adversarial": {"start": 2, "width": 8, "depth": 2},
    "masked_decoder": LOOP,
}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tmp_path_factory.mktemp("line"))


def spec_of(line: Line, name: str, **settings: Any) -> specs.AutoencoderSpec:
    section = AutoencoderSection.model_validate({**SMALL, **settings})
    return specs.AutoencoderSpec(**line.common(name), config=section)


@pytest.mark.parametrize("codes", [0, 32])
def test_with_every_option_on_a_stopped_run_ends_like_one_that_was_not(
    line: Line, codes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discriminator, codebook and both stages resume: the bundles' ids are hashes of all their weights."""
    from training.callbacks.checkpoints import Checkpoints
    from training.models.decoder import MaskedDecoder
    from training.models.io import load_model
    from training.recipes import autoencoder

    spec = spec_of(line, f"options-{codes}", codes=codes, **EVERYTHING)
    whole = autoencoder.run(spec, line.job(spec, f"whole-{codes}"))
    steps, stops = [0], {4, 9}  # in the first stage, and in the second
    saved = Checkpoints.batch_checkpoint

    def stop(self: Any, state: Any, logger: Any) -> None:
        steps[0] += 1
        if steps[0] in stops:
            self.stop.set()
        saved(self, state, logger)

    monkeypatch.setattr(Checkpoints, "batch_checkpoint", stop)
    job = line.job(spec, f"stopped-{codes}")
    for _ in stops:
        with pytest.raises(Preempted):
            autoencoder.run(spec, job)
    again = autoencoder.run(spec, job)
    assert steps[0] == 12  # no step was made twice
    assert again.data == whole.data
    assert {"generator", "discriminator", "adaptive_weight", "perceptual"} <= set(
        json.loads(line.store.get(again.files["curve"]))[-1]
    )
    assert list(again.pictures) == ["Loss", "Samples", "Seams"]
    assert images.decode(line.store.get(again.pictures["Seams"])).std() > 0
    assert {"seam_first_decoder", "seam_second_decoder", "psnr_db"} <= set(again.metadata)
    first, second = (load_model(line.store, again.data[name]) for name in ("model", "masked_decoder"))
    assert not any("discriminator" in name for name in first.state_dict())
    assert isinstance(second, MaskedDecoder)
    assert torch.equal(second.mean, first.mean)
    original, mask = torch.zeros(1, 3, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)
    assert second.decode(first.encode(original), mask, original).shape == original.shape


def test_a_sweep_shows_what_each_latent_size_loses(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    from training.recipes import sweep

    caplog.set_level("INFO")
    config = AutoencoderSection.model_validate({**SMALL, "steps": 30, "learning_rate": 5e-3})
    spec = specs.SweepSpec(**line.common("sweep"), config=config, factors=(4, 32), latent_channels=(2, 4))
    result = sweep.run(spec, line.job(spec, "sweep"))
    rows = json.loads(line.store.get(result.files["sweep"]))
    assert rows == result.data["sweep"]
    assert [(row["factor"], row["channels"], row["latent"]) for row in rows] == [
        (4, 2, 128),
        (4, 4, 256),
        (32, 2, 2),
        (32, 4, 4),
    ]
    assert [row["compression"] for row in rows] == [24.0, 12.0, 1536.0, 768.0]
    assert min(row["psnr_db"] for row in rows[:2]) > max(row["psnr_db"] for row in rows[2:])
    assert result.data["table"] in caplog.text
    assert re.search(r"^ *factor +channels +latent", result.data["table"])
    assert list(result.pictures) == ["Trade-off", "Samples"]
    assert all(images.decode(line.store.get(key)).std() > 0 for key in result.pictures.values())


def test_a_sweep_takes_nothing_that_is_trained_elsewhere(line: Line) -> None:
    from training.recipes import sweep

    spec = specs.SweepSpec(**line.common("no"), config=spec_of(line, "no", masked_decoder=LOOP).config)
    with pytest.raises(BackdropError, match="masked_decoder"):
        sweep.run(spec, line.job(spec, "no"))


def test_a_diffusers_autoencoder_takes_the_place_of_ours(line: Line, tmp_path: Path) -> None:
    from training.models.diffusers_vae import DiffusersAutoencoder
    from training.models.io import load_model
    from training.recipes import autoencoder

    spec = spec_of(line, "diffusers", diffusers=str(write(tmp_path)))
    result = autoencoder.run(spec, line.job(spec, "diffusers"))
    assert isinstance(load_model(line.store, result.data["model"]), DiffusersAutoencoder)
    assert list(result.pictures) == ["Samples"]
    assert "psnr_db" in result.metadata


def test_settings_that_contradict_each_other_are_refused(line: Line) -> None:
    from training.recipes import autoencoder

    with pytest.raises(ValidationError, match="leave out adversarial"):
        spec_of(line, "both", diffusers="folder", adversarial={})
    with pytest.raises(ValidationError, match="multiple of 32"):
        spec_of(line, "odd", crop=48)
    spec = spec_of(line, "large", crop=64)
    with pytest.raises(BackdropError, match="crop of 64"):
        autoencoder.run(spec, line.job(spec, "large"))
