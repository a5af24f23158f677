"""The recipes end to end on a handful of pictures, in one process; stopping and resuming; damaged checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra import images
from infra.errors import BackdropError
from infra.jobs.program import JobContext, Preempted
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore, open_store
from infra.shards import FILTERED_COLUMNS, make_version, write_slice
from tests.training.filtered import filtered_row
from training import specs
from training.presets import load_preset

pytestmark = pytest.mark.integration
PRESET = load_preset("tiny")
SIZE = PRESET.image_size


def samples(count: int, split: str) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(len(split))
    for index in range(count):
        picture = np.full((SIZE, SIZE, 3), rng.integers(0, 256, 3), np.uint8)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[12:24, 10:22] = 255
        captions = ["a box on a wall", "a wall with a box"]
        yield filtered_row(f"{split}-{index}", picture, mask if index % 4 else None, captions)


class Line:
    """A store with a dataset version, and jobs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: ObjectStore = open_store((folder / "store").as_uri())
        pieces = [self.slice(24, "train"), self.slice(6, "holdout")]
        self.dataset = make_version(self.store, pieces).version
        self.results: dict[str, JobResult] = {}

    def slice(self, count: int, split: str) -> Any:
        return write_slice(self.store, "filtered", FILTERED_COLUMNS, samples(count, split), {"split": split})

    def job(self, spec: Any, name: str) -> JobContext[Any]:
        folder = self.folder / "jobs" / name
        folder.mkdir(parents=True, exist_ok=True)
        return JobContext(spec, self.store, spec.output, folder)

    def common(self, name: str) -> dict[str, Any]:
        return {
            "store": self.store.uri,
            "output": f"out/{name}",
            "seed": 0,
            "dataset": self.dataset,
            "image_size": SIZE,
        }

    def flow(self, name: str) -> dict[str, Any]:
        return {
            **self.common(name),
            "latents": self.results["latents"].data["latents"],
            "autoencoder": self.results["autoencoder"].data["model"],
            "text_encoder": None,
        }


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Autoencoder and latents, made once."""
    from training.recipes import autoencoder, latents

    line = Line(tmp_path_factory.mktemp("line"))
    spec = specs.AutoencoderSpec(**line.common("autoencoder"), config=PRESET.autoencoder)
    line.results["autoencoder"] = autoencoder.run(spec, line.job(spec, "autoencoder"))
    again = latents_spec(line)
    line.results["latents"] = latents.run(again, line.job(again, "latents"))
    return line


def latents_spec(line: Line) -> specs.LatentsSpec:
    model = line.results["autoencoder"].data["model"]
    return specs.LatentsSpec(**line.common("latents"), autoencoder=model, text_encoder=None, config=PRESET.latents)


def test_grids_say_which_delivered_images_they_show(line: Line) -> None:
    """So that they are never copied where a takedown cannot reach them."""
    import io

    from training.recipes import autoencoder, pretrain

    spec = specs.AutoencoderSpec(**line.common("autoencoder"), config=PRESET.autoencoder)
    job = line.job(spec, "autoencoder-again")
    result = autoencoder.run(spec, job)
    assert job.shown == {
        key: sorted(f"train-{k}" for k in range(6)) for key in job.store.list("out/autoencoder/") if "samples" in key
    }
    assert result.pictures["Samples"] in job.shown
    flow: Any = specs.PretrainSpec(**line.flow("pretrain-shows"), dit=PRESET.dit, config=PRESET.pretrain)
    job = line.job(flow, "pretrain-shows")
    samples_key = pretrain.run(flow, job).pictures["Samples"]
    listing = json.loads(line.store.get(line.results["latents"].data["latents"]))
    with np.load(io.BytesIO(line.store.get(listing["examples"]))) as arrays:
        assert job.shown[samples_key] == sorted(arrays["ids"].tolist())
        assert set(arrays["ids"].tolist()) <= {f"holdout-{k}" for k in range(6)}


def shown(line: Line, result: JobResult) -> None:
    assert list(result.pictures) == ["Loss", "Samples"]
    for key in result.pictures.values():
        assert images.decode(line.store.get(key)).std() > 0
    curve = json.loads(line.store.get(result.files["curve"]))
    assert all(np.isfinite(row["loss"]) for row in curve)
    assert [row["step"] for row in curve] == sorted(row["step"] for row in curve)


def test_every_stage_hands_over_to_the_next(line: Line) -> None:
    from training.models.io import load_model
    from training.recipes import distil, finetune, pretrain

    shown(line, line.results["autoencoder"])
    spec: Any = specs.PretrainSpec(**line.flow("pretrain"), dit=PRESET.dit, config=PRESET.pretrain)
    base = pretrain.run(spec, line.job(spec, "pretrain"))
    shown(line, base)
    spec = specs.FinetuneSpec(**line.flow("finetune"), base=base.data["model"], config=PRESET.finetune)
    tuned = finetune.run(spec, line.job(spec, "finetune"))
    shown(line, tuned)
    spec = specs.DistilSpec(**line.flow("distil"), teacher=tuned.data["model"], config=PRESET.distil)
    student = distil.run(spec, line.job(spec, "distil"))
    shown(line, student)

    models = [load_model(line.store, result.data["model"]) for result in (base, tuned, student)]
    assert [model.config.flow_map for model in models] == [False, False, True]
    assert set(models[0].state_dict()) == set(models[1].state_dict())  # the adapters are gone
    assert not torch.equal(models[0].patch_in.weight, models[1].patch_in.weight)


def test_latents_are_not_encoded_twice(line: Line) -> None:
    from training.recipes import latents

    spec = latents_spec(line)
    assert line.results["latents"].data["encoded"] == 24  # the held-out slice is not learned from
    before = line.store.get(line.results["latents"].data["latents"])
    again = latents.run(spec, line.job(spec, "latents-again"))
    assert (again.data["encoded"], again.data["reused"]) == (0, 24)
    assert line.store.get(again.data["latents"]) == before


def test_latents_of_another_autoencoder_are_refused(line: Line) -> None:
    from training.recipes import pretrain

    wrong = {**line.flow("wrong"), "autoencoder": "0" * 64}
    spec = specs.PretrainSpec(**wrong, dit=PRESET.dit, config=PRESET.pretrain)
    with pytest.raises(BackdropError, match="latent_shards"):
        pretrain.run(spec, line.job(spec, "wrong"))


def stopped(line: Line, name: str, at: int) -> specs.PretrainSpec:
    """A pretraining that was asked to stop at step `at` and has saved."""
    from training.callbacks import checkpoints
    from training.recipes import pretrain

    spec = specs.PretrainSpec(**line.flow(name), dit=PRESET.dit, config=PRESET.pretrain)
    patch = pytest.MonkeyPatch()
    saved = checkpoints.Checkpoints.batch_checkpoint

    def stop(self: Any, state: Any, logger: Any) -> None:
        if int(state.timestamp.batch) == at:
            self.stop.set()
        saved(self, state, logger)

    patch.setattr(checkpoints.Checkpoints, "batch_checkpoint", stop)
    try:
        with pytest.raises(Preempted):
            pretrain.run(spec, line.job(spec, name))
    finally:
        patch.undo()
    assert not line.store.exists(f"{spec.output}/loss.png")
    return spec


def test_a_stopped_run_saves_and_goes_on_where_it_stopped(line: Line) -> None:
    from training.recipes import pretrain

    spec = stopped(line, "stopped", at=5)
    result = pretrain.run(spec, line.job(spec, "stopped"))
    assert result.metadata["resumed_at_step"] == 5
    curve = json.loads(line.store.get(result.files["curve"]))
    assert curve[-1]["step"] == PRESET.pretrain.steps
    assert curve[0]["step"] < 5  # what was drawn before the stop is still there
    assert not (line.folder / "jobs" / "stopped" / "checkpoints").exists()


def test_another_spec_does_not_resume_a_checkpoint(line: Line) -> None:
    from training.recipes import pretrain

    spec = stopped(line, "other", at=3)
    other = spec.model_copy(update={"seed": 1})
    assert pretrain.run(other, line.job(other, "other")).metadata["resumed_at_step"] == 0


def test_a_damaged_checkpoint_is_passed_over(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    from training.recipes import pretrain

    spec = stopped(line, "damaged", at=3)
    (path,) = (line.folder / "jobs" / "damaged" / "checkpoints").glob("*/step-00000003/whole.pt")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert pretrain.run(spec, line.job(spec, "damaged")).metadata["resumed_at_step"] < 3
    assert "step-00000003 is passed over: whole.pt is cut short or was changed" in caplog.text


def test_how_a_run_is_computed_may_change_between_its_lives(line: Line) -> None:
    from training.recipes import pretrain

    spec = stopped(line, "moved", at=3)
    config = spec.config.model_copy(update={"microbatch": 4, "save_seconds": 100.0})
    other = spec.model_copy(update={"config": config})
    assert pretrain.run(other, line.job(other, "moved")).metadata["resumed_at_step"] == 3


def test_a_loss_that_is_not_finite_stops_the_stage_with_its_step(line: Line) -> None:
    from training.recipes import pretrain

    wild = PRESET.pretrain.model_copy(update={"learning_rate": 1e30, "warmup": 0})
    spec = specs.PretrainSpec(**line.flow("wild"), dit=PRESET.dit, config=wild)
    with pytest.raises(BackdropError, match=r"became (nan|inf) at step \d+ of"):
        pretrain.run(spec, line.job(spec, "wild"))
