"""The later recipes with everything switched on, on a handful of pictures, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors

from infra.bundles import open_bundle
from infra.errors import BackdropError
from tests.training.test_recipes import PRESET, Line
from training import specs
from training.presets.sections import PretrainSection

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Autoencoder and latents with a jittered mask per picture, made once."""
    from training.recipes import autoencoder, latents

    line = Line(tmp_path_factory.mktemp("line"))
    spec = specs.AutoencoderSpec(**line.common("autoencoder"), config=PRESET.autoencoder)
    line.results["autoencoder"] = autoencoder.run(spec, line.job(spec, "autoencoder"))
    section = PRESET.latents.model_copy(update={"jittered_masks": 1})
    model = line.results["autoencoder"].data["model"]
    again = specs.LatentsSpec(**line.common("latents"), autoencoder=model, text_encoder=None, config=section)
    line.results["latents"] = latents.run(again, line.job(again, "latents"))
    return line


OPTIONS: dict[str, Any] = {
    "target": "noise",
    "min_snr": 5.0,
    "shift_base": 8,
    "optimiser": "muon",
    "held_out_every": 4,
    "tread": {"start": 1, "stop": 2},
    "repa": {"block": 1, "width": 16, "until": 12},
}


@pytest.fixture(scope="module")
def base(line: Line) -> Any:
    """Pretrained with every option at once."""
    from training.recipes import pretrain

    section = PretrainSection.model_validate({**PRESET.pretrain.model_dump(), **OPTIONS})
    dit = PRESET.dit.model_copy(update={"depth": 3})
    spec = specs.PretrainSpec(**line.flow("pretrain-options"), dit=dit, config=section)
    return pretrain.run(spec, line.job(spec, "pretrain-options"))


def test_pretraining_runs_with_every_option_and_saves_the_plain_transformer(line: Line, base: Any) -> None:
    from training.models.dit import DiT
    from training.models.io import load_model

    model = load_model(line.store, base.data["model"])
    assert set(model.state_dict()) == set(DiT(model.config).state_dict())
    assert open_bundle(line.store, base.data["model"]).meta["shift"] == pytest.approx(2**0.5)  # of 16 cells over 8
    curve = json.loads(line.store.get(base.files["curve"]))
    assert curve[0]["alignment"] > 0
    assert curve[-1]["alignment"] == 0  # its last step lies before


def test_options_that_do_not_fit_the_model_are_refused_before_anything_is_trained(line: Line, tmp_path: Path) -> None:
    from training.recipes import pretrain

    section = PretrainSection.model_validate({**PRESET.pretrain.model_dump(), "tread": {"start": 1, "stop": 2}})
    spec = specs.PretrainSpec(**line.flow("misfit"), dit=PRESET.dit, config=section)
    with pytest.raises(BackdropError, match="last of 2 blocks"):
        pretrain.run(spec, line.job(spec, "misfit"))


def test_a_fine_tune_leaves_its_first_stage_its_adapters_and_their_sum(line: Line, base: Any) -> None:
    from training.models.io import load_model
    from training.models.lora import load_lora, merge_lora
    from training.recipes import finetune

    line.store.put("picked.txt", b"train-4\ntrain-6\n")
    short = PRESET.finetune.product_masks.model_dump(exclude={"rank", "scale"})
    section = type(PRESET.finetune).model_validate(
        {**PRESET.finetune.model_dump(), "curated": {**short, "steps": 3, "ids": "picked.txt"}}
    )
    spec = specs.FinetuneSpec(**line.flow("finetune-stages"), base=base.data["model"], config=section)
    result = finetune.run(spec, line.job(spec, "finetune-stages"))

    shifts = [open_bundle(line.store, result.data[name]).meta["shift"] for name in ("stage1", "model")]
    assert shifts == [1.0, 1.0]  # whatever the base's was
    stage1, merged = (load_model(line.store, result.data[name]) for name in ("stage1", "model"))
    assert not torch.equal(stage1.patch_out.weight, merged.patch_out.weight)
    bundle = open_bundle(line.store, result.data["lora"])
    assert bundle.kind == "lora"
    load_lora(stage1, load_tensors(bundle.read("adapter_model.safetensors")))
    merge_lora(stage1)
    for name, value in merged.state_dict().items():
        assert torch.equal(stage1.state_dict()[name], value), name  # to the bit: only the adapters were trained
    assert result.metadata["curated_steps"] == 3
    assert result.metadata["product-masks_trained_parameters"] < result.metadata["random-masks_trained_parameters"]


def test_adapters_begin_alike_on_every_rank(line: Line, base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.models.lora import adapters
    from training.recipes import finetune
    from training.recipes.fit import Fit

    class Begun(Exception):
        """The stage with adapters has begun."""

    begun: list[dict[str, torch.Tensor]] = []
    spec = specs.FinetuneSpec(**line.flow("adapters"), base=base.data["model"], config=PRESET.finetune)
    for rank in range(2):

        def fit(job: Any, stage: str, ema: Any, *given: Any, rank: int = rank) -> Fit:
            torch.manual_seed(100 + rank)  # as Composer does
            if stage == finetune.PRODUCT:
                begun.append({name: module.a for name, module in adapters(ema.model).items()})
                raise Begun
            return Fit([], {})

        monkeypatch.setattr(finetune, "fit", fit)
        with pytest.raises(Begun):
            finetune.run(spec, line.job(spec, f"adapters-{rank}"))
    one, other = begun
    assert all(torch.equal(value, other[name]) for name, value in one.items())
