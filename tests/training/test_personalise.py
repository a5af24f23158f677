"""Personalisation: what is recorded of a subject, what each method trains and keeps, and what a batch of it holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.bundles import open_bundle
from infra.errors import BackdropError
from infra.images import encode_jpeg
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from infra.object_store import ObjectStore, open_store
from training.draws import Draws
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.dit import DiT, DiTConfig
from training.models.io import load_model, save_model
from training.models.text_encoder import TextEncoder
from training.personalise.bundle import load_personalised
from training.personalise.losses import inversion_loss, subject_loss
from training.personalise.rows import SubjectLoader, encode_pictures, with_text
from training.personalise.subject import PLACEHOLDER, photographs_of, prompts_for, read_subject, record_subject
from training.personalise.token import LearnedToken, PromptEncoder
from training.presets.sections import PersonaliseSection, PersonaliseStageSection
from training.recipes import personalise
from training.recipes.personalise import Studio, run
from training.specs import PersonaliseSpec

SIZE = 32
METHODS = ("dreambooth", "lora", "textual-inversion")


def photograph(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    picture = np.full((48, 40, 3), rng.integers(0, 256, 3), np.uint8)
    picture[12:36, 10:30] = (220, 120, 20)
    return encode_jpeg(picture)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return open_store(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture(scope="module")
def text() -> TextEncoder:
    return TextEncoder(None, 16)


@pytest.fixture(scope="module")
def base(store: ObjectStore) -> dict[str, str]:
    torch.manual_seed(0)
    dit = DiT(DiTConfig(latent_channels=4, width=32, depth=1, heads=2))
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    autoencoder = Autoencoder(AutoencoderConfig(latent_channels=4, width=8, depth=1))
    return {
        "base": save_model(store, "models/base", "dit", dit, {}),
        "autoencoder": save_model(store, "models/autoencoder", "autoencoder", autoencoder, {}),
    }


@pytest.fixture(scope="module")
def results(store: ObjectStore, base: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, JobResult]:
    """Each method, run for a few steps."""
    subject = record_subject(store, "my-mug", "mug", {f"{k}.jpg": photograph(k) for k in range(3)})
    short = {"steps": 3, "batch_size": 4, "warmup": 0, "ema": 0.0, "log_every": 1}
    made = {}
    for method in METHODS:
        section = PersonaliseSection.model_validate(
            {"method": method, "prior_images": 2, "text_length": 16}
            | dict.fromkeys(("dreambooth", "lora", "textual_inversion"), short)
        )
        spec = PersonaliseSpec(
            store=store.uri, output=f"stages/{method}", text_encoder=None, dataset="d", subject=subject.name,
            word=subject.word, photographs=subject.photographs, image_ids=tuple(subject.image_ids),
            image_size=SIZE, config=section, seed=0, **base,
        )  # fmt: skip
        made[method] = run(spec, JobContext(spec, store, spec.output, tmp_path_factory.mktemp(method)))
    return made


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_holds_what_was_learned_and_nothing_else(
    store: ObjectStore, base: dict[str, str], results: dict[str, JobResult], method: str
) -> None:
    bundle = open_bundle(store, results[method].data["model"])
    weights = {"dreambooth": "model", "lora": "adapters", "textual-inversion": "token"}[method]
    assert [name for name in bundle.files if name.endswith(".safetensors")] == [f"{weights}.safetensors"]
    assert bundle.meta["base"] == base["base"]
    assert bundle.meta["photographs"] == read_subject(store, "my-mug").image_ids
    learned = json.loads(bundle.read("subject.json"))
    assert learned["word"] == "mug"
    assert learned["phrase"] == results[method].data["phrase"]
    if method == "textual-inversion":
        assert bundle.files["token.safetensors"].size < 10_000


@pytest.mark.parametrize("method", METHODS)
def test_an_opened_one_differs_from_the_base_where_its_method_says(
    store: ObjectStore, base: dict[str, str], results: dict[str, JobResult], text: TextEncoder, method: str
) -> None:
    made = load_personalised(store, results[method].data["model"], text)
    before = load_model(store, base["base"])
    same = all(torch.equal(a, b) for a, b in zip(made.transformer.parameters(), before.parameters(), strict=True))
    assert set(made.transformer.state_dict()) == set(before.state_dict())  # adapters are merged
    assert same == (method == "textual-inversion")
    ordinary = ["a photo of a mug"]
    plain, lengths = text.embed(ordinary)
    own, own_lengths = made.embed(ordinary)
    assert np.allclose(own, plain, atol=0.02)  # the text encoder itself is as it was
    assert np.array_equal(own_lengths, lengths)


def test_a_recipe_shows_the_subject_and_names_whose_photographs_those_are(
    store: ObjectStore, results: dict[str, JobResult]
) -> None:
    ids = read_subject(store, "my-mug").image_ids
    for result in results.values():
        assert set(result.pictures) == {"Loss", "Samples", "Photographs"}
        assert result.pictures["Photographs"] not in result.pictures["Samples"]
        assert all(store.exists(key) for key in result.pictures.values())
        assert len(ids) == 3


def test_everything_that_draws_lies_on_the_device_that_was_asked_for(
    store: ObjectStore, base: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(personalise, "device_named", lambda wanted: torch.device("meta"))
    spec = PersonaliseSpec(
        store=store.uri, output="stages/studio", text_encoder=None, dataset="d", subject="s", word="mug",
        photographs=("p",), image_ids=("p",), image_size=SIZE, config=PersonaliseSection(), seed=0, **base,
    )  # fmt: skip
    studio = Studio.open(spec, JobContext(spec, store, spec.output, tmp_path))
    for model in (studio.autoencoder, studio.base, studio.text.model):
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_subject_is_recorded_whole_and_replaced_whole(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    first = record_subject(
        store, "duck", "rubber duck", {"a.jpg": photograph(1), "b.jpg": photograph(2), "c.jpg": photograph(1)}
    )
    assert read_subject(store, "duck") == first
    assert len(first.photographs) == 2  # a copy is no other photograph
    assert photographs_of(store, first.photographs, SIZE).shape == (2, SIZE, SIZE, 3)
    second = record_subject(store, "duck", "duck", {"d.jpg": photograph(3)})
    assert read_subject(store, "duck") == second
    assert set(store.list("subjects/duck/")) == set(second.photographs)


@pytest.mark.parametrize(
    ("name", "word", "pictures", "named"),
    [
        ("My Mug", "mug", {"a.jpg": photograph(0)}, "My Mug"),
        ("../mug", "mug", {"a.jpg": photograph(0)}, "../mug"),
        ("mug", "", {"a.jpg": photograph(0)}, "class word"),
        ("mug", "a {0} mug", {"a.jpg": photograph(0)}, "class word"),
        ("mug", "mug", {}, "0 photographs"),
        ("mug", "mug", {"a.jpg": photograph(0), "notes.jpg": b"not a picture"}, "notes.jpg"),
    ],
)
def test_bad_subjects_are_named_and_nothing_of_them_is_kept(
    tmp_path: Path, name: str, word: str, pictures: dict[str, bytes], named: str
) -> None:
    store = open_store(tmp_path.as_uri())
    with pytest.raises(BackdropError, match=named) as caught:
        record_subject(store, name, word, pictures)
    assert caught.value.remedy
    assert not list(store.list(""))


def test_a_subject_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="no subject 'duck'"):
        read_subject(open_store(tmp_path.as_uri()), "duck")


def test_the_learned_token_alone_decides_what_the_placeholder_means(text: TextEncoder) -> None:
    prompts = PromptEncoder(text)
    captions = [f"a photo of a {PLACEHOLDER} mug", "a photo of a mug"]
    token = LearnedToken(prompts.initial("mug", 2))
    before, lengths = prompts(token, captions)
    assert lengths.tolist() == [lengths[1] + 2, lengths[1]]  # two vectors stand for the subject
    before[0].sum().backward()
    assert token.vectors.grad is not None
    assert token.vectors.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in text.model.parameters())
    with torch.no_grad():
        token.vectors += 1.0
        after, _ = prompts(token, captions)
    assert not torch.allclose(after[0], before[0])
    assert torch.allclose(after[1], before[1], atol=1e-5)


def rows(count: int, prior: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(count)
    pictures = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    autoencoder = Autoencoder(AutoencoderConfig(latent_channels=4, width=8, depth=1))
    return with_text(
        encode_pictures(autoencoder, pictures, 0),
        np.zeros((5, 6, 384), np.float16),
        np.full(5, 6, np.uint8),
        prior=prior,
    )


def test_batches_hold_subject_and_class_by_halves_and_are_the_same_on_any_number_of_ranks() -> None:
    loader = SubjectLoader(rows(3, False), rows(5, True), 8)
    first, second = next(loader), next(loader)
    assert first["prior"].tolist() == [False] * 4 + [True] * 4
    assert torch.equal(second["latent"][0], loader.subject["latent"][1])  # in turn: 4 of 3 were shown before
    halves = [next(loader.at(1, rank, 2)) for rank in range(2)]
    for name, column in second.items():
        assert torch.equal(torch.cat([half[name] for half in halves]), column), name
    assert not next(SubjectLoader(rows(3, False), None, 4))["prior"].any()


def test_the_whole_picture_is_the_first_mask_and_is_masked_for_every_photograph_alike() -> None:
    found = rows(3, False)
    assert (found["masks"][:, 0] == 255).all()
    assert torch.equal(found["masked"][0, 0], found["masked"][2, 0])
    assert (found["masks"][:, 1:] < 255).any()


class Still(torch.nn.Module):
    """Predicts no movement at all."""

    def forward(self, z: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(z)


def test_the_class_s_weight_multiplies_its_part_of_the_loss() -> None:
    batch = next(SubjectLoader(rows(3, False), rows(5, True), 8))
    draws = Draws.of(batch, 0, 0)
    section = PersonaliseStageSection()
    none, one, two = (subject_loss(section, weight)(Still(), batch, draws)["loss"].item() for weight in (0.0, 1.0, 2.0))
    assert two - one == pytest.approx(one - none)
    assert none > 0
    assert one > none


def test_textual_inversion_lowers_its_loss_through_a_frozen_transformer(
    store: ObjectStore, base: dict[str, str], text: TextEncoder
) -> None:
    prompts = PromptEncoder(text)
    captions = prompts_for(f"{PLACEHOLDER} mug")
    token = LearnedToken(prompts.initial("mug", 2))
    frozen = load_model(store, base["base"]).requires_grad_(False)
    loss = inversion_loss(PersonaliseStageSection(text_dropout=0.0), frozen, prompts, captions)
    batch = next(SubjectLoader(rows(3, False), None, 6))
    optimiser = torch.optim.Adam(token.parameters(), 0.1)
    losses = []
    for _ in range(12):
        value = loss(token, batch, Draws.of(batch, 0, 0))["loss"]
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]
