"""The second decoder: it begins as the first, reads only what is kept, and makes the seam smaller."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_autoencoder import build, draws_of, photographs
from training.draws import Draws
from training.models.autoencoder import FACTORS, Autoencoder
from training.models.decoder import MaskedDecoder
from training.presets.sections import AutoencoderSection, MaskedDecoderSection
from training.recipes.masked_decoder import Probe, drawn_masks, masked_decoder_loss
from training.reconstruction import reconstruction_loss
from training.seam import border_band, composite, seam_error


def hole(side: int = 32) -> Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[:, :, side // 4 : side // 2, side // 4 :] = 1
    return mask


@pytest.mark.parametrize("codes", [0, 16])
@pytest.mark.parametrize("factor", FACTORS)
def test_it_begins_as_the_first_decoder(factor: int, codes: int) -> None:
    first = build(factor=factor, codes=codes).eval()
    first.normalise(torch.randn(64, 8, 4, 4) * 3 + 1)
    second = MaskedDecoder.beside(first)
    latent, original = torch.randn(2, 8, 64 // factor, 32 // factor), torch.rand(2, 3, 64, 32) * 2 - 1
    mask = torch.ones(2, 1, 64, 32)
    mask[:, :, :20] = 0
    assert torch.equal(second.decode(latent, mask, original), first.decode(latent))


def test_what_is_to_be_generated_is_never_read() -> None:
    second = MaskedDecoder.beside(build())
    for layer in second.correction.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, std=0.1)
    latent, original, mask = torch.randn(1, 8, 4, 4), torch.rand(1, 3, 32, 32) * 2 - 1, hole()
    before = second.decode(latent, mask, original)
    assert torch.equal(second.decode(latent, mask, torch.where(mask > 0, 0.3, original)), before)
    assert not torch.equal(second.decode(latent, mask, torch.where(mask > 0, original, 0.3)), before)


def test_a_seam_is_counted_where_it_is_and_nowhere_else() -> None:
    original, mask = torch.rand(1, 3, 32, 32) * 2 - 1, hole()
    assert seam_error(original, original, mask) == 0
    assert seam_error(original + 20 / 127.5, original, mask) == pytest.approx(20, rel=1e-4)  # 20 levels too bright
    inner = mask - border_band(mask, 2)
    assert inner.sum() > 0
    assert seam_error(original + inner, original, mask) == 0  # another content, met as the picture was
    kept = composite(original + 1, original, mask)
    assert torch.equal(kept[:, :, mask[0, 0] == 0], original[:, :, mask[0, 0] == 0])


def test_the_band_is_the_rim_of_the_hole() -> None:
    mask = torch.zeros(1, 1, 12, 12)
    mask[:, :, 2:10, 2:] = 1  # reaches the right side, where nothing is kept
    band = border_band(mask, 2)[0, 0]
    expected = torch.zeros(12, 12)
    expected[2:10, 2:] = 1
    expected[4:8, 4:] = 0
    assert torch.equal(band, expected)


def test_holes_are_each_samples_own() -> None:
    images = photographs(6)
    everyone = drawn_masks(draws_of(images), 32, 48)
    assert everyone.shape == (6, 1, 32, 48)
    assert set(everyone.unique().tolist()) == {0.0, 1.0}
    assert len({mask.numpy().tobytes() for mask in everyone}) > 3
    assert torch.equal(drawn_masks(Draws(1, 0, torch.tensor([2, 4]), 6), 32, 48), everyone[[2, 4]])


def optimise(model: torch.nn.Module, loss: Any, steps: int) -> None:
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(steps):
        images = photographs(8, seed=step)
        optimiser.zero_grad()
        loss(model, {"image": images}, draws_of(images, step))["loss"].backward()
        optimiser.step()


def test_training_it_makes_the_seam_smaller_and_leaves_the_encoder_alone() -> None:
    """On pictures that it has not seen, with latents as they are and with latents that have drifted."""
    first: Autoencoder = build(latent_channels=4)
    optimise(first, reconstruction_loss(AutoencoderSection()), 80)
    with torch.no_grad():
        first.normalise(first.moments(photographs(16).float() / 127.5 - 1)[0])
    frozen = {name: weight.clone() for name, weight in first.state_dict().items()}
    second = MaskedDecoder.beside(first)
    optimise(second, masked_decoder_loss(MaskedDecoderSection(), first), 80)
    assert all(torch.equal(weight, frozen[name]) for name, weight in first.state_dict().items())
    assert not any(weight.requires_grad for weight in first.parameters())
    unseen = photographs(12, seed=1000).float() / 127.5 - 1
    for drift in (0.0, 0.5):
        seams = Probe.of(unseen, 4, drift, seed=0).seams(first, second)
        print(drift, seams)
        assert seams["second"] < 0.85 * seams["first"], (drift, seams)


def test_two_microbatches_losses_add_up_to_the_whole_batch_s() -> None:
    first = build(latent_channels=4)
    loss, second = masked_decoder_loss(MaskedDecoderSection(), first), MaskedDecoder.beside(first)
    images = photographs(8)
    whole = loss(second, {"image": images}, draws_of(images))["loss"]
    halves = [loss(second, {"image": images[half]}, Draws(1, 0, half, 8))["loss"] for half in torch.arange(8).split(4)]
    torch.testing.assert_close(torch.stack(halves).mean(), whole, atol=1e-5, rtol=1e-4)
