"""Distillation: what the student is asked for, the answers that it gets, and that it learns them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from training import precision
from training.distillation import (
    LOSSES,
    Given,
    Negatives,
    average_velocity,
    budgets,
    guided_velocity,
    perflow,
    split,
    times_and_steps,
)
from training.draws import Draws
from training.models.dit import DiT, DiTConfig, as_flow_map
from training.presets.sections import DistilSection
from training.recipes.distil import distillation_loss

SECTION = DistilSection(student_steps=4)
CONFIG = DiTConfig(latent_channels=4, width=16, depth=1, heads=2, text_width=8)


def awake(config: DiTConfig = CONFIG, std: float = 0.2) -> DiT:
    torch.manual_seed(0)
    model = DiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def awake_student() -> DiT:
    """One whose own inputs all matter."""
    return awake(DiTConfig(**{**vars(CONFIG), "flow_map": True}))


def given(count: int = 4, guidance: float = 2.0, negative_length: int = 0) -> Given:
    torch.manual_seed(2)
    return Given(
        masked=torch.randn(count, 4, 4, 4),
        mask=torch.ones(count, 1, 4, 4),
        text=torch.randn(count, 3, 8),
        text_length=torch.full((count,), 3),
        guidance=torch.full((count,), guidance),
        negative=torch.randn(count, 3, 8),
        negative_length=torch.full((count,), negative_length),
    )


def whole(count: int) -> Draws:
    return Draws(0, 0, torch.arange(count), count)


def batch(count: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "latent": torch.randn(count, 4, 4, 4),
        "masked": torch.randn(count, 3, 4, 4, 4),
        "masks": torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8),
        "text": torch.randn(count, 1, 3, 8),
        "text_length": torch.full((count, 1), 3),
        "has_product": torch.ones(count, dtype=torch.bool),
    }


def negatives() -> Negatives:
    torch.manual_seed(3)
    return Negatives(torch.randn(6, 2, 5, 8), torch.randint(1, 6, (6, 2)))


def test_any_part_of_a_batch_has_its_share_of_every_budget() -> None:
    found, place = budgets(whole(240), SECTION)
    assert SECTION.shares == pytest.approx({4: 0.6, 8: 0.2, 2: 0.1, 1: 0.1})
    for part in (found, found[:60], found[97:157]):
        for budget, share in SECTION.shares.items():
            assert abs((part == budget).sum() - share * len(part)) <= 2
    assert (found[place < SECTION.anchor_share] == 4).all()  # anchors are samples that the teacher answers for
    second = budgets(Draws(0, 0, torch.arange(120) + 120, 240), SECTION)[0]
    assert torch.equal(second, found[120:])


def test_steps_fit_between_the_time_and_data_and_the_samplers_own_are_trained() -> None:
    budget, _ = budgets(whole(4096), SECTION)
    t, d = times_and_steps(budget, whole(4096))
    assert torch.equal(d, 1 / budget)
    assert (t - d >= -1e-6).all()
    assert t.max() <= 1
    for steps in (1, 2, 4, 8):
        for index in range(steps):
            assert ((budget == steps) & (t == 1 - index / steps)).sum() > 30
    assert ((budget == 4) & (t * 4 % 1 > 0)).sum() > 400  # and others, so that it is a map and no table


def test_guidance_leads_away_from_the_negative_text_or_from_none() -> None:
    teacher, z, t = awake(), torch.randn(4, 4, 4, 4), torch.rand(4)
    asked = given(4, 3.0, negative_length=2)
    asked.negative_length[0] = 0
    with torch.no_grad():
        guided = guided_velocity(teacher, z, t, asked)
        conditional = teacher(z, t, asked.masked, asked.mask, asked.text, asked.text_length)
        away = teacher(z, t, asked.masked, asked.mask, asked.negative, asked.negative_length)
    torch.testing.assert_close(guided, away + 3 * (conditional - away), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        unguided = guided_velocity(teacher, z, t, given(4, 1.0, negative_length=2))
        plain = given()
        torch.testing.assert_close(unguided, teacher(z, t, plain.masked, plain.mask, plain.text, plain.text_length))


def test_no_branch_drops_what_is_kept_of_the_picture() -> None:
    seen: list[tuple[Any, ...]] = []
    teacher = awake()
    teacher.register_forward_pre_hook(lambda module, args: seen.append(args))
    asked = given(4)
    with torch.no_grad():
        guided_velocity(teacher, torch.randn(4, 4, 4, 4), torch.rand(4), asked)
    ((_, _, masked, mask, _, length),) = seen
    assert torch.equal(masked, torch.cat([asked.masked] * 2))
    assert torch.equal(mask, torch.cat([asked.mask] * 2))
    assert length.tolist() == [3] * 4 + [0] * 4


def lessons(count: int = 16, student: nn.Module | None = None, **settings: Any) -> tuple[Any, Any, Any]:
    section = DistilSection(**settings)
    asked, teacher = given(count, 2.0, negative_length=2), awake()
    x = torch.randn(count, 4, 4, 4)
    with torch.no_grad():
        found = split(teacher, student or awake_student(), x, asked, whole(count), section)
    return found, asked, teacher


def test_a_split_is_two_euler_steps_of_the_guided_teacher_and_its_anchor_the_first_one_s_velocity() -> None:
    found, asked, teacher = lessons()
    lesson, anchor = found["split"], found["anchor"]
    assert set((1 / lesson.d).tolist()) == {4.0, 8.0}
    conditions, half = asked.of(lesson.rows), (lesson.d / 2)[:, None, None, None]
    with torch.no_grad():
        first = guided_velocity(teacher, lesson.z, lesson.t, conditions)
        halfway = lesson.z - half * first
        end = halfway - half * guided_velocity(teacher, halfway, lesson.t - lesson.d / 2, conditions)
        anchored = guided_velocity(teacher, anchor.z, anchor.t, asked.of(anchor.rows))
    torch.testing.assert_close(lesson.z - 2 * half * lesson.target, end)
    torch.testing.assert_close(anchor.target, anchored)
    assert not anchor.d.any()
    assert len(anchor.rows) in (2, 3)


def test_long_steps_are_put_together_from_the_student_s_own() -> None:
    student = awake_student()
    found, asked, _ = lessons(student=student)
    lesson = found["own"]
    assert set((1 / lesson.d).tolist()) == {1.0, 2.0}
    assert sorted([*lesson.rows.tolist(), *found["split"].rows.tolist()]) == list(range(16))
    half, conditions = lesson.d / 2, asked.of(lesson.rows)
    with torch.no_grad():
        first = average_velocity(student, lesson.z, lesson.t, half, conditions)
        middle = lesson.z - half[:, None, None, None] * first
        second = average_velocity(student, middle, lesson.t - half, half, conditions)
    torch.testing.assert_close(lesson.target, (first + second) / 2)


class Straight(nn.Module):
    """A teacher whose paths are straight lines, to a picture of `x` from any noise; counts its forwards' samples."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.asked = x, 0

    def forward(self, z: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        self.asked += len(z) // 2
        return (z - self.x[0]) / t[:, None, None, None]


def test_perflow_straightens_the_teacher_s_path_in_each_window() -> None:
    x = torch.randn(1, 4, 4, 4).expand(16, -1, -1, -1)
    teacher: Any = Straight(x)
    found = perflow(teacher, teacher, x, given(16), whole(16), SECTION)
    lesson = found["window"]
    noise = whole(16).normal("noise", 4, 4, 4)
    time = lesson.t[:, None, None, None]
    torch.testing.assert_close(lesson.z, (1 - time) * x + time * noise, atol=1e-4, rtol=1e-4)  # on the line
    torch.testing.assert_close(lesson.target, noise - x, atol=1e-3, rtol=1e-3)
    window = torch.ceil(lesson.t / lesson.d) * lesson.d
    assert (lesson.t <= window).all()
    assert lesson.t.unique().numel() > 12
    budget, _ = budgets(whole(16), SECTION)
    assert teacher.asked == (8 / budget).clamp(min=2).sum()  # as fine for long windows as for the default's


def test_perflow_s_windows_are_solved_by_the_guided_teacher() -> None:
    section = DistilSection(other_steps={})
    teacher, asked, x = awake(), given(4), torch.randn(4, 4, 4, 4)
    with torch.no_grad():
        lesson = perflow(teacher, teacher, x, asked, whole(4), section)["window"]
        upper = (torch.ceil(lesson.t * 4) / 4)[:, None, None, None]
        z = (1 - upper) * x + upper * whole(4).normal("noise", 4, 4, 4)
        half = z - guided_velocity(teacher, z, upper.flatten(), asked) / 8
        end = half - guided_velocity(teacher, half, upper.flatten() - 1 / 8, asked) / 8
    torch.testing.assert_close(lesson.target, 4 * (z - end), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_two_ranks_halves_add_up_to_the_whole_batch_s_loss(name: str) -> None:
    teacher, student = awake(), awake_student()
    loss, given = distillation_loss(teacher, DistilSection(loss=name), negatives()), batch(8)
    all_of_it = loss(student, given, whole(8))
    for size in (4, 1):  # of single samples most have no lesson of a kind at all
        parts = []
        for first in range(0, 8, size):
            part = {name: column[first : first + size] for name, column in given.items()}
            parts.append(loss(student, part, Draws(0, 0, torch.arange(size) + first, 8)))
        for key, value in all_of_it.items():
            found = torch.stack([part[key] for part in parts]).mean()
            torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-4, msg=f"{key} in parts of {size}")


def test_each_sample_s_error_is_against_its_own_answer() -> None:
    teacher, student = awake(), as_flow_map(awake())
    unguided = DistilSection(guidance_low=1.0, guidance_high=1.0)
    found = distillation_loss(teacher, unguided, negatives())(student, batch(16), whole(16))
    assert found["anchor"] < 1e-4 * found["split"]  # at d = 0 and without guidance the student is its teacher
    assert found["split"] > 1e-3


def test_negative_texts_are_other_captions_whole_or_in_part() -> None:
    bank = negatives()
    text, length = bank.draw(whole(400), share=0.5)
    assert text.shape == (400, 5, 8)
    assert 0.4 < (length > 0).float().mean() < 0.6
    parts = 0
    for row in (length > 0).nonzero()[:, 0].tolist():
        words = text[row, : length[row]]
        runs = [
            (caption, start)
            for caption in range(12)
            for start in range(int(bank.length[caption]) - len(words) + 1)
            if torch.equal(bank.text[caption, start : start + len(words)], words)
        ]
        assert runs
        parts += all(len(words) < bank.length[caption] for caption, _ in runs)
    assert 20 < parts < 180
    second = bank.draw(Draws(0, 0, torch.arange(200) + 200, 400), share=0.5)
    assert torch.equal(second[0], text[200:])
    assert torch.equal(second[1], length[200:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_of_the_student_learns(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(precision._chosen, "cpu", getattr(torch, dtype))
    student = awake_student()
    found = distillation_loss(awake(), DistilSection(negative_share=1.0), negatives())(student, batch(16), whole(16))
    found["loss"].backward()
    assert [name for name, weight in student.named_parameters() if weight.grad is None] == []


def test_a_student_learns_what_to_be_led_away_from() -> None:
    teacher, student = awake(), as_flow_map(awake()).train()
    section = DistilSection(negative_share=1.0, guidance_low=3.0, guidance_high=3.0)
    loss, bank = distillation_loss(teacher, section, negatives()), negatives()
    optimiser = torch.optim.AdamW(student.parameters(), 3e-3)
    for step in range(60):
        optimiser.zero_grad()
        loss(student, batch(16), Draws(0, step, torch.arange(16), 16))["loss"].backward()
        optimiser.step()
    draws = Draws(1, 0, torch.arange(64), 64)
    text, length = bank.draw(draws, 1.0)
    asked = Given(**{**vars(given(64, 3.0)), "negative": text, "negative_length": length})
    z, t = torch.randn(64, 4, 4, 4), torch.full((64,), 0.5)
    with torch.no_grad():
        asked = Given(**{**vars(asked), "text": torch.nn.functional.pad(asked.text, (0, 0, 0, 2))})
        target = guided_velocity(teacher, z, t, asked)
        led = average_velocity(student, z, t, torch.zeros(64), asked)
        ignored = Given(**{**vars(asked), "negative_length": torch.zeros_like(length)})
        unled = average_velocity(student, z, t, torch.zeros(64), ignored)
    assert (led - target).square().mean() < 0.8 * (unled - target).square().mean()


def test_settings_that_do_not_fit_are_refused_with_their_numbers() -> None:
    with pytest.raises(ValidationError, match=r"anchor_share 0.7 .* 0.60"):
        DistilSection(anchor_share=0.7)
    with pytest.raises(ValidationError, match="at least 1"):
        DistilSection(other_steps={0: 0.1})
    with pytest.raises(ValidationError, match="perflow"):
        DistilSection(loss="ladd")
    with pytest.raises(ValidationError, match=r"0\.10 of the samples"):
        DistilSection(other_steps={2: 0.9})
    with pytest.raises(ValidationError, match="text_dropout"):
        DistilSection(text_dropout=1.5)
    with pytest.raises(ValidationError, match=r"guidance_low 4\.0 is above guidance_high 3\.0"):
        DistilSection(guidance_low=4)


def test_the_default_s_own_share_is_what_the_others_leave() -> None:
    with pytest.raises(ValidationError, match=r"0\.1 of the samples to 2 steps, but these are student_steps"):
        DistilSection(student_steps=2, other_steps={8: 0.2, 2: 0.1})
    shares = pytest.approx({2: 0.7, 8: 0.2, 1: 0.1})
    section = DistilSection(student_steps=2)
    assert section.shares == shares
    assert DistilSection.model_validate_json(section.model_dump_json()).shares == shares  # as a job's spec has it
    assert DistilSection(student_steps=2, other_steps={8: 0.2, 2: 0.0, 1: 0.1}).shares == shares
