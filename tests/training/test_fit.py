"""The training loop: averages, master weights, broken batches, devices, folders, and what it measures."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import nn

from infra.errors import BackdropError
from infra.jobs.channel import SilentChannel
from infra.jobs.program import Preempted
from infra.jobs.ranks import Place
from tests.training.world import BATCH, Run, job_in, loader, tiny_model
from training import precision
from training.composer_model import size_of
from training.ema import Ema
from training.gauges.power import Power
from training.gauges.utilisation import Utilisation, flops_per_sample
from training.presets.sections import (
    AutoencoderSection,
    InversionStageSection,
    MaskedDecoderSection,
    OptimiserSection,
    PretrainSection,
    RepaSection,
)
from training.recipes.fit import CHECKPOINTS, Fit, fit, forget_checkpoints
from training.saves import Saves, step_of

pytestmark = pytest.mark.integration


def loss_of(model: nn.Module, batch: Mapping[str, torch.Tensor], draws: Any) -> dict[str, torch.Tensor]:
    x = batch["latent"]
    z = torch.cat([x + draws.normal("noise", *x.shape[1:]), x[:, :1]], dim=1)
    return {"loss": (model(z) - x).square().mean()}


class Recorder(SilentChannel):
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.said: list[Mapping[str, Any]] = []

    def send(self, payload: Mapping[str, Any]) -> None:
        self.said.append(payload)


def trained(folder: Path, loss: Any = loss_of, run: Run | None = None, **section: Any) -> tuple[Ema[Any], Fit]:
    torch.manual_seed(0)
    values = {"steps": 6, "batch_size": BATCH, "learning_rate": 1e-2, "warmup": 0, "ema": 0.5, "log_every": 1}
    values |= section
    ema: Ema[Any] = Ema(tiny_model(), values["ema"], values.get("ema_every", 1))
    fitted = fit(
        job_in(folder, Recorder()), "tiny", ema, loss, loader(run or Run("")), OptimiserSection(**values), seed=3
    )
    return ema, fitted


def test_the_average_is_updated_every_step_as_its_decay_says(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def watched(model: Any, batch: Any, draws: Any) -> dict[str, torch.Tensor]:
        if draws.step >= 0:
            seen.append(model.last.bias.detach().clone())
        return loss_of(model, batch, draws)

    ema, _ = trained(tmp_path, watched, steps=3, ema=0.3)
    weights = [*seen, ema.model.last.bias.detach()]  # before the first step, after each of three
    average = weights[0]
    for step, weight in enumerate(weights[1:], 1):
        decay = min(0.3, step / (step + 9))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(ema.module.last.bias, average)
    assert not torch.equal(ema.module.last.bias, ema.model.last.bias)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_average_s_last_move_is_at_the_last_step_also_of_a_run_that_was_resumed(tmp_path: Path, steps: int) -> None:
    """Moved at every third step, and at the end by what is left: a run shorter than that is not its untrained start."""
    seen: list[torch.Tensor] = []
    killed_at = steps - 1

    def watched(model: Any, batch: Any, draws: Any) -> dict[str, torch.Tensor]:
        if draws.step >= 0:
            seen.append(model.last.bias.detach().clone())
        return loss_of(model, batch, draws)

    def doomed(model: Any, batch: Any, draws: Any) -> dict[str, torch.Tensor]:
        if draws.step == killed_at:
            raise KeyboardInterrupt
        return loss_of(model, batch, draws)

    kept: dict[str, Any] = {"steps": steps, "ema_every": 3, "save_seconds": 1e-9}
    ema, _ = trained(tmp_path / "whole", watched, **kept)
    weights = [*seen, ema.model.last.bias.detach()]
    average = weights[0]
    for step, moved_by in ((1, 1),) if steps == 1 else ((3, 3), (5, 2)):
        decay = min(0.5, step / (step + 9)) ** moved_by
        average = decay * average + (1 - decay) * weights[step]
    torch.testing.assert_close(ema.module.last.bias, average)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", doomed, **kept)
    for life in (killed_at, steps):  # goes on, and finds itself done
        again, fitted = trained(tmp_path / "killed", **kept)
        assert fitted.metadata["resumed_at_step"] == life
        assert again.updates == steps
        for name, value in ema.module.state_dict().items():
            assert torch.equal(again.module.state_dict()[name], value), name


def test_the_average_is_saved_resumed_and_what_is_drawn(tmp_path: Path) -> None:
    drawn: list[torch.Tensor] = []

    def draw(model: Any) -> bytes:
        drawn.append(model.last.bias.detach().clone())
        return b"png"

    from training.recipes.fit import Draw

    torch.manual_seed(0)
    section = OptimiserSection(steps=4, batch_size=BATCH, ema=0.5, sample_every=2, warmup=0, learning_rate=1e-2)
    ema: Ema[Any] = Ema(tiny_model(), 0.5)
    held: list[torch.Tensor] = []

    def held_out(model: Any) -> dict[str, float]:
        held.append(model.last.bias.detach().clone())
        return {"error": 1.5}

    job = job_in(tmp_path, Recorder())
    fit(
        job,
        "tiny",
        ema,
        loss_of,
        loader(Run("")),
        section.model_copy(update={"held_out_every": 4}),
        3,
        Draw(draw),
        held_out,
    )
    assert len(drawn) == 2
    for used in (drawn[-1], held[-1]):
        assert torch.equal(used, ema.module.last.bias)
        assert not torch.equal(used, ema.model.last.bias)
    said = [m for m in job.channel.said if m["kind"] == "metrics" and "tiny/held out/error" in m["values"]]
    assert [(m["step"], m["values"]["tiny/held out/error"]) for m in said] == [(4, 1.5)]

    torch.manual_seed(1)  # a process that begins from other weights, and finds the run done
    again: Ema[Any] = Ema(tiny_model(), 0.5)
    fitted = fit(job_in(tmp_path, Recorder()), "tiny", again, loss_of, loader(Run("")), section, 3)
    assert fitted.metadata["resumed_at_step"] == 4
    assert again.updates == 4
    for name, value in ema.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value)


def test_master_weights_stay_float32_under_autocast(tmp_path: Path) -> None:
    """An update of 1e-4 of a weight of 1 is below bfloat16's resolution; in float32 masters it counts."""
    dtypes = set()

    def mixed(model: Any, batch: Any, draws: Any) -> dict[str, torch.Tensor]:
        with precision.autocast(torch.bfloat16):
            out = model(torch.cat([batch["latent"], batch["latent"][:, :1]], dim=1))
        dtypes.add(out.dtype)
        return {"loss": out.float().square().mean()}

    before = tiny_model()
    ema, _ = trained(tmp_path, mixed, steps=2, learning_rate=1e-4, weight_decay=0.0)
    assert dtypes == {torch.bfloat16}
    del before
    for module in (ema.model, ema.module):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    weight = ema.model.first.weight.detach()
    assert (weight.bfloat16().float() != weight).float().mean() > 0.9


def test_microbatches_change_nothing_but_rounding(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole")
    parts, fitted = trained(tmp_path / "parts", microbatch=2)
    for name, value in whole.module.state_dict().items():
        torch.testing.assert_close(parts.module.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert len(fitted.curve) == 6


def test_a_batch_with_nan_stops_the_run_and_is_saved_by_name(tmp_path: Path) -> None:
    run = Run("", poison=4)
    with pytest.raises(BackdropError) as caught:
        trained(tmp_path, run=run, save_seconds=1e-9)
    said = str(caught.value)
    assert "tiny: loss became nan at step 4 of 6" in said
    (path,) = (tmp_path / "save").glob("not-finite-*.safetensors")
    assert path.name in said
    with safe_open(path, "pt") as saved:
        assert saved.get_tensor("latent").isnan().any()
        ids = saved.metadata()["ids"].split("\n")
    assert len(ids) == BATCH
    assert ids[0] in said
    saved_at = [step_of(path.with_suffix("")) for path in (tmp_path / "save" / "checkpoints").glob("*/step-*.json")]
    assert max(saved_at) == 4  # the weights before the broken step
    again, _ = trained(tmp_path, run=Run(""), save_seconds=1e-9)  # the same run with the picture mended
    assert all(weight.isfinite().all() for weight in again.module.parameters())


def test_a_gpu_that_is_asked_for_and_absent_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackdropError, match="device: cuda was asked for"):
        trained(tmp_path, device="cuda")
    assert precision.device_named("auto").type == "cpu"


def test_two_runs_in_one_folder_are_one_error(tmp_path: Path) -> None:
    def second(model: Any, batch: Any, draws: Any) -> dict[str, torch.Tensor]:
        trained(tmp_path)
        return loss_of(model, batch, draws)

    second.__module__ = loss_of.__module__
    with pytest.raises(BackdropError, match=r"process \d+ is running a job in .*checkpoints/tiny-"):
        trained(tmp_path, second)


def test_rows_resume_where_they_were_and_metrics_name_their_stage(tmp_path: Path) -> None:
    job = job_in(tmp_path, Recorder())
    section = OptimiserSection(steps=5, batch_size=BATCH, log_every=2, save_seconds=1e-9)
    fitted = fit(job, "tiny", Ema(tiny_model(), 0.5), loss_of, loader(Run("")), section, seed=3)
    assert [row["step"] for row in fitted.curve] == [2, 4, 5]
    said = [m for m in job.channel.said if m["kind"] == "metrics"]
    assert [m["step"] for m in said] == [2, 4, 5]
    assert {"tiny/loss", "tiny/gradient_norm", "tiny/images_per_second", "tiny/mfu_of_gemm"} <= set(said[0]["values"])


def test_what_a_second_life_reports_again_is_the_same(tmp_path: Path) -> None:
    """So a record that keeps the first point of each name and step has every point once, and the right one."""
    lives = []
    for run in (Run("", poison=4), Run("")):
        job = job_in(tmp_path, Recorder())
        section = OptimiserSection(steps=6, batch_size=BATCH, log_every=1, save_seconds=1e9)
        torch.manual_seed(0)
        try:
            fit(job, "tiny", Ema(tiny_model(), 0.5), loss_of, loader(run), section, seed=3)
        except BackdropError:
            assert run.poison is not None
        rows = [(m["step"], m["values"]) for m in job.channel.said if m["kind"] == "metrics"]
        names = ("tiny/loss", "tiny/gradient_norm", "tiny/learning_rate")
        lives.append({step: tuple(values[name] for name in names) for step, values in rows})
    assert list(lives[0]) == [1, 2, 3, 4]
    assert list(lives[1]) == [1, 2, 3, 4, 5, 6]
    assert lives[0].items() <= lives[1].items()


def test_the_model_is_compiled_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    trained(tmp_path / "plain", steps=1)
    assert not compiled
    ema, _ = trained(tmp_path / "compiled", steps=1, compile=True)
    assert compiled == [ema.model]


def test_the_number_format_is_settled_for_all_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for faster, poison in ((torch.bfloat16, 4), (torch.float32, None)):
        monkeypatch.setattr(precision, "_chosen", {})  # as in a process of its own
        monkeypatch.setattr(precision, "gemm_seconds", lambda dtype, *_, fast=faster: 1.0 if dtype == fast else 2.0)
        try:
            _, fitted = trained(tmp_path, run=Run("", poison=poison), save_seconds=1e-9)
        except BackdropError:
            assert poison is not None
    assert fitted.metadata["resumed_at_step"] == 4
    assert fitted.metadata["precision"] == "bfloat16"
    assert precision.fast_dtype("cpu") == torch.bfloat16


def test_a_save_that_fails_says_why_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead rank's RuntimeError must not become advice to free some space, which nobody retries."""

    def fails(state: Any, path: str) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("training.callbacks.checkpoints.save_checkpoint", fails)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        trained(tmp_path)


def test_asked_to_stop_during_the_last_save_it_stops_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = Saves.commit

    def asked(saves: Saves, step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        commit(saves, step)

    monkeypatch.setattr(Saves, "commit", asked)
    with pytest.raises(Preempted):
        trained(tmp_path, save_seconds=1e9)
    assert trained(tmp_path)[1].metadata["resumed_at_step"] == 6  # the stage is done


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_finished_recipe_forgets_on_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """Ranks 0 and 2 lead their nodes; the store is rank 0's."""
    here = {"RANK": rank, "WORLD_SIZE": 4, "LOCAL_RANK": rank % 2, "LOCAL_WORLD_SIZE": 2, "NODE_RANK": rank // 2}
    for name, value in here.items():
        monkeypatch.setenv(name, str(value))
    job = job_in(tmp_path, Recorder())
    (job.folder / CHECKPOINTS / "tiny").mkdir(parents=True)
    job.store.put(f"{job.output}/{CHECKPOINTS}/tiny/step-00000001.json", b"{}")
    forget_checkpoints(job)
    assert (job.folder / CHECKPOINTS).exists() == (rank == 1)
    assert bool(list(job.store.list(job.output))) == (rank > 0)


ALIGNED = RepaSection(block=1)


@pytest.mark.parametrize(
    ("section", "refused"),
    [
        (AutoencoderSection, {}),
        (InversionStageSection, {}),
        (MaskedDecoderSection, {"sample_every": 5}),
        (PretrainSection, {"repa": ALIGNED, "sample_every": 5}),
        (PretrainSection, {"repa": ALIGNED, "held_out_every": 5}),
    ],
)
def test_sharding_is_refused_where_not_only_the_forward_is_called(section: Any, refused: dict[str, Any]) -> None:
    section(**refused)
    with pytest.raises(ValidationError, match="sharding: fsdp gathers weights in a model's forward"):
        section(sharding="fsdp", **refused)


def test_sharding_is_taken_where_only_the_forward_is_called() -> None:
    PretrainSection(sharding="fsdp", sample_every=5, held_out_every=5)
    PretrainSection(sharding="fsdp", repa=ALIGNED)
    MaskedDecoderSection(sharding="fsdp")


# ── gauges ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_operations_are_counted_forward_and_backward() -> None:
    model = nn.Linear(16, 32, bias=False)

    def product(model: nn.Module, batch: Any, draws: Any) -> dict[str, torch.Tensor]:
        return {"loss": model(batch["x"]).square().mean()}

    batch = {"x": torch.randn(5, 16)}
    # The weight's gradient needs a product as large as the forward's; nobody asks for the input's.
    assert flops_per_sample(model, product, batch) == 2 * 2 * 16 * 32
    assert size_of(batch) == 5
    read = Utilisation(1e6, Place(ranks=2), peak=4e9, gemm=2e9).read(images=400, seconds=0.1)
    assert read == pytest.approx({"tflops": 2e-3, "mfu": 0.5, "mfu_of_gemm": 1.0})


def test_energy_is_that_between_two_readings() -> None:
    counter = iter([100.0, 160.0, 190.0])
    power = Power(lambda: next(counter), Place(ranks=2))
    assert power.read(images=40, seconds=2.0) == {"watts": 30.0, "joules": 120.0, "joules_per_image": 3.0}
    assert power.read(images=10, seconds=1.0) == {"watts": 30.0, "joules": 60.0, "joules_per_image": 6.0}
    assert Power.of(torch.device("cpu"), Place()) is None
