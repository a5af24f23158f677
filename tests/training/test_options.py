"""Each option of the recipes: what it does, and that without it the numbers are those of plain code, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from training import flow
from training.batches import choose
from training.completion import completion_loss, held_out_errors
from training.draws import Draws
from training.models.autoencoder import Autoencoder, AutoencoderConfig
from training.models.dit import DiT, DiTConfig, Route
from training.perceptual import random_features
from training.presets.sections import CompletionSection, PretrainSection, RepaSection, TreadSection
from training.repa import Aligned, Alignment, PictureTeacher, check_alignment, to_tokens
from training.tread import check_route, draw_route

CONFIG = DiTConfig(latent_channels=4, width=32, depth=4, heads=2, text_width=8)
COUNT = 8


def awake(config: DiTConfig = CONFIG) -> DiT:
    torch.manual_seed(0)
    model = DiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def batch(count: int = COUNT, height: int = 4, width: int = 6, first: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    masked = torch.randn(count, 3, 4, height, width, generator=generator)
    return {
        "latent": torch.randn(count, 4, height, width, generator=generator),
        "masked": masked,
        "masks": torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator),
        "text": torch.randn(count, 2, 3, 8, generator=generator),
        "text_length": torch.full((count, 2), 3),
        "has_product": torch.ones(count, dtype=torch.bool),
    }


def draws(count: int = COUNT, step: int = 5) -> Draws:
    return Draws(0, step, torch.arange(count), count)


def loss_of(section: CompletionSection, model: Any, given: dict[str, Tensor], at: Draws, **options: Any) -> Tensor:
    return completion_loss(section, 0.5, 0.1, patch=2, **options)(model, given, at)["loss"]


def plain_loss(section: CompletionSection, model: DiT, given: dict[str, Tensor], at: Draws) -> Tensor:
    """Flow matching as a page of a paper would have it: none of the options' code."""
    chosen = choose(given, 0.5, 0.1, section.text_dropout, at)
    x, mask = chosen["latent"], chosen["mask"]
    noise = at.normal("noise", *x.shape[1:])
    u = at.strata("times").clamp(1e-4, 1 - 1e-4)
    t = torch.sigmoid(section.time_mean + section.time_std * torch.special.ndtri(u))
    wide = t[:, None, None, None]
    predicted = model((1 - wide) * x + wide * noise, t, chosen["masked"], mask, chosen["text"], chosen["text_length"])
    return flow.weighted_error(predicted, noise - x, mask, section.hole_weight).mean()


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.completion.fast_dtype", lambda device: torch.float32)


def test_with_every_option_off_the_loss_and_its_gradients_are_plain_flow_matching() -> None:
    section = PretrainSection()
    assert section.tread is section.repa is section.min_snr is None
    ours, theirs = awake(), awake()
    loss, plain = loss_of(section, ours, batch(), draws()), plain_loss(section, theirs, batch(), draws())
    assert torch.equal(loss, plain)
    loss.backward()
    plain.backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name  # type: ignore[arg-type]


def test_every_option_changes_the_loss() -> None:
    base = loss_of(CompletionSection(), awake(), batch(), draws())
    for option in (
        {"shift_base": 6},
        {"target": "noise"},
        {"tread": TreadSection(start=1, stop=3)},
    ):
        assert not torch.equal(loss_of(CompletionSection(**option), awake(), batch(), draws()), base), option  # type: ignore[arg-type]
    noise = loss_of(CompletionSection(target="noise"), awake(), batch(), draws())
    bounded = loss_of(CompletionSection(target="noise", min_snr=0.1), awake(), batch(), draws())
    assert bounded < noise


def test_the_shift_follows_the_size_of_the_picture() -> None:
    section = CompletionSection(shift_base=24)
    plain = CompletionSection()
    same, larger = batch(), batch(height=8, width=12)
    assert torch.equal(loss_of(section, awake(), same, draws()), loss_of(plain, awake(), same, draws()))
    assert not torch.equal(loss_of(section, awake(), larger, draws()), loss_of(plain, awake(), larger, draws()))


def test_two_ranks_halves_add_up_to_the_whole_batch_s_loss() -> None:
    section = CompletionSection(tread=TreadSection(start=1, stop=3), target="noise", min_snr=5.0)
    model, given = awake(), batch()
    halves = []
    for first in (0, 4):
        part = {name: column[first : first + 4] for name, column in given.items()}
        halves.append(loss_of(section, model, part, Draws(0, 5, torch.arange(4) + first, COUNT)))
    whole = loss_of(section, model, given, draws())
    torch.testing.assert_close(torch.stack(halves).mean(), whole, atol=1e-6, rtol=1e-5)


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValidationError, match="set target to noise"):
        CompletionSection(min_snr=5.0)
    with pytest.raises(ValidationError, match="leave before block 3 cannot return before block 3"):
        TreadSection(start=3, stop=3)
    with pytest.raises(ValueError, match="last of 4 blocks: give at most 3"):
        check_route(TreadSection(start=1, stop=4), CONFIG)
    check_route(TreadSection(start=1, stop=3), CONFIG)
    with pytest.raises(ValueError, match="has 4 blocks"):
        check_alignment(RepaSection(block=5), CONFIG, None)
    for block, fine in ((1, True), (2, False), (3, False), (4, True)):
        given = RepaSection(block=block), CONFIG, TreadSection(start=1, stop=3)
        if fine:
            check_alignment(*given)
        else:
            with pytest.raises(ValueError, match="align one outside"):
                check_alignment(*given)


# Token routing


def test_a_route_keeps_the_share_asked_for_and_another_choice_for_each_sample() -> None:
    route = draw_route(TreadSection(share=0.5, start=1, stop=3), draws(64), 24)
    assert isinstance(route, Route)
    assert (route.start, route.stop, tuple(route.kept.shape)) == (1, 3, (64, 12))
    assert all(len(set(row)) == 12 and row == sorted(row) for row in route.kept.tolist())
    assert len({tuple(row) for row in route.kept.tolist()}) > 60
    assert (torch.bincount(route.kept.flatten(), minlength=24) > 15).all()  # no token is left out for good
    again = draw_route(TreadSection(share=0.5, start=1, stop=3), Draws(0, 5, torch.tensor([7]), 64), 24)
    assert torch.equal(again.kept[0], route.kept[7])
    assert draw_route(TreadSection(share=0.99, start=1, stop=3), draws(), 4).kept.shape == (COUNT, 1)


def test_routed_tokens_leave_the_middle_blocks_out() -> None:
    """A middle block that shouts is not heard by the tokens that skip it, but by those that go through."""
    given = batch()
    chosen = choose(given, 0.5, 0.1, 0.0, draws())
    inputs = (chosen["latent"], torch.rand(COUNT), chosen["masked"], chosen["mask"], chosen["text"])
    kept = torch.tensor([[0, 2, 4]]).expand(COUNT, -1)  # of 6 tokens
    route = Route(1, 2, kept)
    model = awake()
    for block in (2, 3):  # without attention behind the route, tokens do not hear of each other
        model.get_parameter(f"blocks.{block}.attention_out.weight").data.zero_()
    with torch.no_grad():
        before = model(*inputs, chosen["text_length"], route=route)
        model.get_parameter("blocks.1.mlp_out.weight").add_(1.0)
        after = model(*inputs, chosen["text_length"], route=route)
    heard = (after - before).abs().amax(1)  # (B, h, w), patches of 2 x 2
    heard = heard.unflatten(1, (2, 2)).unflatten(3, (3, 2)).amax((2, 4)).flatten(1)  # (B, 6)
    assert (heard[:, [0, 2, 4]] > 1e-3).all()
    assert not heard[:, [1, 3, 5]].any()


# Representation alignment


def teacher() -> PictureTeacher:
    torch.manual_seed(0)
    return PictureTeacher(Autoencoder(AutoencoderConfig(latent_channels=4, width=8, depth=1)), random_features())


def test_the_teacher_sees_clean_pictures_on_the_tokens_grid() -> None:
    looking = teacher()
    latent = torch.randn(2, 4, 4, 6)
    features = looking(latent)
    assert features.shape[:2] == (2, looking.width)
    assert not features.requires_grad
    assert torch.equal(features, looking(latent))
    assert not torch.equal(features, looking(latent + 1))
    tokens = to_tokens(features, 4, 6, 6)
    assert tokens.shape == (2, 6, looking.width)
    ordered = to_tokens(torch.arange(24.0).view(1, 1, 4, 6), 4, 6, 6)[0, :, 0]
    assert ordered.tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]  # each token's own patch, row by row


def aligned(section: RepaSection) -> tuple[Aligned, Alignment]:
    looking = teacher()
    return Aligned(awake(), section, looking.width), Alignment(section, looking)


def test_alignment_adds_its_term_and_trains_the_blocks_before_it_alone() -> None:
    section = RepaSection(block=2, weight=0.7, width=16)
    model, alignment = aligned(section)
    found = completion_loss(CompletionSection(), 0.5, 0.1, patch=2, alignment=alignment)(model, batch(), draws())
    plain = loss_of(CompletionSection(), model.dit, batch(), draws())
    torch.testing.assert_close(found["loss"], plain + found["alignment"])
    assert 0 < found["alignment"] < 2 * 0.7
    term = found["loss"] - plain
    grads = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
    reached = {
        name
        for (name, _), grad in zip(model.named_parameters(), grads, strict=True)
        if grad is not None and grad.abs().max() > 1e-7
    }
    assert {"project.0.weight", "dit.blocks.1.mlp_out.weight", "dit.patch_in.weight"} <= reached
    assert not {name for name in reached if name.startswith(("dit.blocks.2", "dit.blocks.3", "dit.patch_out"))}


def test_alignment_ends_at_its_last_step_and_does_not_ask_the_teacher_again() -> None:
    section = RepaSection(block=2, until=6, width=16)
    model, alignment = aligned(section)
    loss = completion_loss(CompletionSection(), 0.5, 0.1, patch=2, alignment=alignment)
    assert loss(model, batch(), draws(step=5))["alignment"] > 0
    alignment.teacher = None  # type: ignore[assignment]
    found = loss(model, batch(), draws(step=6))
    assert torch.equal(found["loss"], loss_of(CompletionSection(), model.dit, batch(), draws(step=6)))
    found["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.project.parameters())


class Fixed:
    """A teacher of one's own: a random function of each cell."""

    width = 5

    def __call__(self, latent: Tensor) -> Tensor:
        mix = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
        return torch.einsum("fc,bchw->bfhw", mix, latent).tanh()


def test_tokens_learn_to_agree_with_any_teacher() -> None:
    section = RepaSection(block=2, weight=1.0, width=16)
    model = Aligned(awake(), section, Fixed.width)
    loss = completion_loss(CompletionSection(), 0.5, 0.1, patch=2, alignment=Alignment(section, Fixed()))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    given, seen = batch(), []
    for step in range(30):
        terms = loss(model, given, draws(step=step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        seen.append(float(terms["alignment"]))
    assert seen[-1] < 0.7 * seen[0]


# Held-out loss by time


def test_the_held_out_error_is_measured_by_time_and_is_the_same_at_every_call() -> None:
    measure = held_out_errors(CompletionSection(), 0.5, 0.1, batch(64), 0)
    model = awake().eval()
    found = measure(model)
    assert list(found) == [
        "loss",
        *(f"loss, t {a} to {b}" for a, b in (("0", "0.25"), ("0.25", "0.5"), ("0.5", "0.75"), ("0.75", "1"))),
    ]
    assert found == measure(model)
    assert sum(list(found.values())[1:]) / 4 == pytest.approx(found["loss"], rel=1e-5)  # as many in each

    class Knowing(torch.nn.Module):
        """Right about noisy latents alone."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, z: Tensor, t: Tensor, *given: Tensor) -> Tensor:
            return torch.where(t[:, None, None, None] < 0.5, 100.0, 0.0).expand_as(z)

    by_time = list(measure(Knowing()).values())[1:]
    assert min(by_time[:2]) > 1000 > max(by_time[2:])


class Watching(torch.nn.Module):
    """Predicts nothing, and keeps the masked latents that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shown: list[Tensor] = []

    def forward(self, z: Tensor, t: Tensor, masked: Tensor, *given: Tensor) -> Tensor:
        self.shown.append(masked)
        return torch.zeros_like(z)


def test_the_held_out_error_is_measured_on_the_masks_that_are_trained_on() -> None:
    given = batch(32)
    given["masked"] = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(32, 4, 4, 4, 6)  # of mask k: k
    for share, expected in ((0.0, {1.0}), (1.0, {2.0, 3.0})):  # everything, a random one, a jittered one, the exact one
        model = Watching()
        held_out_errors(CompletionSection(), share, 0.0, {**given, "masks": batch(32)["masks"][:, [0, 1, 2, 2]]}, 1)(
            model
        )
        assert set(torch.cat(model.shown).unique().tolist()) == expected


def test_a_part_of_the_times_without_a_held_out_sample_is_left_out() -> None:
    found = held_out_errors(CompletionSection(), 0.5, 0.1, batch(2), 0)(Watching())
    assert len(found) == 3
    assert all(torch.tensor(list(found.values())).isfinite())
