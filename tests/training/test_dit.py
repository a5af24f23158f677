"""The transformer: shapes, conditions, and the student that starts as its teacher."""

from typing import Any

import pytest
import torch
from torch import Tensor

from training.models import fused
from training.models.dit import DiT, DiTConfig, Route, Tap, as_flow_map, patchify, rotate, rotations, unpatchify

CONFIG = DiTConfig(latent_channels=4, width=32, depth=2, heads=2, text_width=16)
CONFIG_3 = DiTConfig(latent_channels=4, width=32, depth=3, heads=2, text_width=16)


def awake(config: DiTConfig = CONFIG) -> DiT:
    """A model whose silent layers were given weights, so that every path matters."""
    torch.manual_seed(0)
    model = DiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def inputs(batch: int = 3, height: int = 4, width: int = 6, length: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latent = (batch, 4, height, width)
    return {
        "z": torch.randn(latent, generator=generator),
        "t": torch.rand(batch, generator=generator),
        "masked": torch.randn(latent, generator=generator),
        "mask": torch.ones(batch, 1, height, width),
        "text": torch.randn(batch, length, 16, generator=generator),
        "text_length": torch.tensor([5, 3, 0][:batch]),
    }


def test_a_new_model_predicts_zero() -> None:
    assert not DiT(CONFIG)(**inputs()).any()


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (8, 2)])
def test_any_even_size_runs(size: tuple[int, int]) -> None:
    given = inputs(height=size[0], width=size[1])
    assert awake()(**given).shape == given["z"].shape


def test_a_batch_of_one_equals_its_row() -> None:
    model, given = awake(), inputs()
    together = model(**given)
    for row in range(3):
        alone = model(**{name: value[row : row + 1] for name, value in given.items()})
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-5, rtol=1e-5)


def test_text_beyond_its_length_is_not_seen() -> None:
    model, given = awake(), inputs()
    before = model(**given)
    given["text"][1, 3:] = 99.0
    assert torch.equal(model(**given)[1], before[1])
    given["text"][1, 2] = 99.0
    assert not torch.equal(model(**given)[1], before[1])


def test_length_0_is_the_null_text_whatever_the_text() -> None:
    model, given = awake(), inputs()
    before = model(**given)
    given["text"][2] = 99.0
    assert torch.equal(model(**given)[2], before[2])


@pytest.mark.parametrize("name", ["t", "masked", "mask", "z"])
def test_every_condition_matters(name: str) -> None:
    model, given = awake(), inputs()
    before = model(**given)
    given[name] = given[name] * 0.5
    assert not torch.allclose(model(**given), before)


NEGATIVE = {"negative": torch.randn(3, 4, 16), "negative_length": torch.tensor([0, 4, 2])}
STEPS = {"step": torch.tensor([0.0, 0.25, 0.5]), "guidance": torch.tensor([1.0, 2.0, 4.0])}


@pytest.mark.parametrize("negative", [{}, NEGATIVE])
def test_a_student_starts_as_its_teacher_bit_for_bit(negative: dict[str, Tensor]) -> None:
    teacher, given = awake(), inputs()
    student = as_flow_map(teacher).eval()
    assert torch.equal(student(**given, **STEPS, **negative), teacher(**given))


def test_a_student_starts_to_learn_every_input_of_its_own() -> None:
    student = as_flow_map(awake())
    student(**inputs(), **STEPS, **NEGATIVE).square().sum().backward()
    assert student.negative_in is not None
    for silent in (student.step_in, student.guidance_in):
        assert silent is not None
        assert silent.out.weight.grad.any()
    assert student.negative_in.words_out.weight.grad.any()
    assert student.negative_in.pooled_out.weight.grad.any()


def test_a_negative_text_counts_by_its_words_its_length_and_the_guidance() -> None:
    given = {**inputs(), **STEPS}
    torch.manual_seed(0)
    student = DiT(DiTConfig(**{**vars(CONFIG), "flow_map": True})).eval()
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    without = student(**given)
    led = student(**given, **NEGATIVE)
    assert torch.equal(led[0], without[0])  # length 0, and so it is no text whatever the text
    assert not torch.allclose(led[1], without[1])
    assert not torch.allclose(led[2], without[2])
    beyond = NEGATIVE["negative"].clone()
    beyond[2, 2:] = 99.0
    torch.testing.assert_close(student(**given, **{**NEGATIVE, "negative": beyond}), led)
    unguided = {**given, "guidance": torch.ones(3)}
    assert torch.equal(student(**unguided, **NEGATIVE), student(**unguided))


def test_a_student_from_before_negative_texts_loads_and_is_not_led() -> None:
    student = as_flow_map(awake()).eval()
    weights = {name: value for name, value in student.state_dict().items() if not name.startswith("negative_in.")}
    loaded = as_flow_map(DiT(CONFIG)).eval()
    loaded.load_state_dict(weights)
    assert torch.equal(loaded(**inputs(), **STEPS, **NEGATIVE), student(**inputs(), **STEPS))
    with pytest.raises(RuntimeError, match="Missing key"):
        loaded.load_state_dict({})


def test_a_teacher_takes_no_negative_text() -> None:
    with pytest.raises(ValueError, match="forward of its own"):
        awake()(**inputs(), **NEGATIVE)


def test_a_student_asks_for_step_and_guidance() -> None:
    with pytest.raises(ValueError, match="step and guidance"):
        as_flow_map(awake())(**inputs())


def test_patches_are_put_back_where_they_were() -> None:
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(unpatchify(patchify(x, 2), 4, 6, 2), x)


@pytest.mark.parametrize(("wrong", "named"), [({"width": 30, "heads": 4}, "30"), ({"width": 6, "heads": 2}, "6")])
def test_impossible_shapes_are_refused_with_their_numbers(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DiTConfig(**wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_own_backward_of_attention_is_that_of_the_plain_formula(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = awake(), inputs()
    weight = torch.linspace(-1, 1, given["z"].numel()).view_as(given["z"])

    def gradients() -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = model(**given)
        (out.float() * weight).sum().backward()
        return [out.detach().float()] + [p.grad for p in model.parameters() if p.grad is not None]

    ours = gradients()
    monkeypatch.setattr(fused, "applies", lambda x: False)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    for own, plain in zip(ours, gradients(), strict=True):
        assert (own - plain).norm() <= tolerance * plain.norm()


def test_positions_depend_on_distance_alone() -> None:
    x = torch.randn(1, 1, 1, 8).expand(1, 12, 1, 8)  # the same vector at each place of a 3 by 4 grid
    turned = rotate(x, rotations(3, 4, 8, x))[0, :, 0]
    products = turned @ turned.T
    torch.testing.assert_close(products[0, 5], products[1, 6])  # one row down, one column on
    torch.testing.assert_close(products[0, 5], products[6, 11])
    assert not torch.isclose(products[0, 1], products[0, 4])  # a column on is not a row down


def test_a_route_that_keeps_every_token_changes_nothing() -> None:
    model, given = awake(CONFIG_3), inputs()
    everyone = torch.stack([torch.randperm(6) for _ in range(3)])
    torch.testing.assert_close(model(**given, route=Route(0, 2, everyone)), model(**given), atol=1e-4, rtol=1e-4)


def test_tokens_off_the_route_pass_its_blocks_untouched() -> None:
    model, given = awake(CONFIG_3), inputs()
    before, inside, after = Tap(0), Tap(1), Tap(2)
    kept = torch.tensor([[5, 0], [1, 2], [3, 4]])
    seen = []
    model.blocks[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for tap in (before, inside, after):
        seen.clear()
        model(**given, route=Route(1, 2, kept), tap=tap)
    assert before.hidden is not None
    assert inside.hidden is not None
    assert after.hidden is not None
    assert inside.hidden.shape == (3, 2, CONFIG_3.width)
    assert after.hidden.shape == (3, 6, CONFIG_3.width)
    for row in range(3):
        away = [n for n in range(6) if n not in kept[row].tolist()]
        assert torch.equal(seen[0][row, away], before.hidden[row, away])
        assert torch.equal(seen[0][row, kept[row]], inside.hidden[row])


def test_a_tap_changes_nothing() -> None:
    model, given = awake(), inputs()
    assert torch.equal(model(**given, tap=Tap(0)), model(**given))


def test_a_route_beyond_the_last_block_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValueError, match="from block 1 to 2 does not fit 2 blocks"):
        awake()(**inputs(), route=Route(1, 2, torch.zeros(3, 1, dtype=torch.long)))
