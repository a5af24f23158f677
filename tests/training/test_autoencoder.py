"""The autoencoder: shapes, normalisation, both bottlenecks, and each part of its loss."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import BackdropError
from training.adversarial import Adversary, adaptive_weight, adversarial_terms
from training.draws import Draws
from training.models.autoencoder import FACTORS, Autoencoder, AutoencoderConfig
from training.models.vq import Codebook
from training.perceptual import open_features, perceptual_distance, random_features, vgg16_features
from training.precision import mixed
from training.presets.sections import AdversarialSection, AutoencoderSection
from training.reconstruction import crop, reconstruct, reconstruction_loss

SMALL = {"width": 8, "depth": 1}


def build(**config: Any) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(**{**SMALL, **config}))


def photographs(count: int = 4, side: int = 32, seed: int = 0) -> Tensor:
    """uint8 (N, 3, side, side): smooth colours with a sharp box."""
    generator = torch.Generator().manual_seed(seed)
    colours = F.interpolate(torch.rand(count, 3, 3, 3, generator=generator), size=side, mode="bilinear")
    colours[:, :, side // 4 : side // 2, side // 4 : side // 2] = torch.rand(count, 3, 1, 1, generator=generator)
    return (colours * 255).to(torch.uint8)


def draws_of(images: Tensor, step: int = 0) -> Draws:
    return Draws.of({"image": images}, seed=1, step=step)


@pytest.mark.parametrize("codes", [0, 16])
@pytest.mark.parametrize("factor", FACTORS)
def test_latents_have_the_side_over_the_factor(factor: int, codes: int) -> None:
    model = build(factor=factor, latent_channels=5, codes=codes)
    images = torch.rand(2, 3, 32, 64) * 2 - 1
    latent = model.encode(images)
    assert latent.shape == (2, 5, 32 // factor, 64 // factor)
    assert model.decode(latent).shape == images.shape


def test_another_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="factor 12"):
        AutoencoderConfig(factor=12)


def test_latents_are_normalised_and_decoding_undoes_it() -> None:
    model = build()
    images = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        raw = model.moments(images)[0]
        before = model.unpack(raw)
        model.normalise(raw)
        latent = model.encode(images)
        torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(8))
        torch.testing.assert_close(model.decode(latent), before, atol=1e-5, rtol=1e-4)


def trained(section: AutoencoderSection, steps: int, batch: Tensor) -> tuple[Autoencoder, list[float]]:
    """An autoencoder after some steps on one batch, and the pixels' error at each."""
    model = build(factor=section.factor, codes=section.codes)
    if model.codebook is not None:
        model.codebook.start(model.moments(batch.float() / 127.5 - 1)[0], seed=0)
    loss, errors = reconstruction_loss(section), []
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(steps):
        terms = loss(model, {"image": batch}, draws_of(batch, step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        errors.append(terms["l1"].item())
    return model, errors


@pytest.mark.parametrize("codes", [0, 64])
def test_it_learns_its_pictures_through_either_bottleneck(codes: int) -> None:
    batch = photographs()
    model, errors = trained(AutoencoderSection(factor=4, codes=codes, **SMALL), 60, batch)
    assert errors[-1] < 0.5 * errors[0]
    if model.codebook is not None:
        indices = model.codebook.nearest(model.moments(batch.float() / 127.5 - 1)[0])
        assert indices.unique().numel() > 16  # the codebook has not collapsed


def test_with_every_option_off_the_numbers_are_those_of_the_plain_loss() -> None:
    """Written out as it was before there were options: bit for bit, gradients included."""
    model, batch = build(), photographs()
    images, draws = batch.float() / 127.5 - 1, draws_of(batch)
    terms = reconstruction_loss(AutoencoderSection(**SMALL))(model, {"image": batch}, draws)
    terms["loss"].backward()
    ours = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    with mixed(images.device):
        mean, log_variance = (part.float() for part in model.moments(images) if part is not None)
        latent = mean + (0.5 * log_variance).exp() * draws.normal("posterior", *mean.shape[1:])
        error = model.up(latent.contiguous(memory_format=torch.channels_last)).float() - images
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        plain = error.abs().mean() + 0.5 * edges + 1e-4 * kl
    plain.backward()
    assert set(terms) == {"loss", "l1", "edges", "kl"}
    assert torch.equal(terms["loss"], plain)
    assert all(torch.equal(a, b.grad) for a, b in zip(ours, model.parameters(), strict=True))  # type: ignore[arg-type]


def test_codes_are_the_nearest_and_pass_the_gradient_straight() -> None:
    torch.manual_seed(0)
    book = Codebook(7, 3)
    latent = torch.randn(2, 3, 4, 5, requires_grad=True)
    distance = torch.cdist(latent.permute(0, 2, 3, 1).reshape(-1, 3), book.codes)
    assert torch.equal(book.nearest(latent).flatten(), distance.argmin(1))
    quantised, loss = book.quantise(latent)
    torch.testing.assert_close(quantised, book(latent))
    (gradient,) = torch.autograd.grad(quantised.sum(), latent, retain_graph=True)
    assert torch.equal(gradient, torch.ones_like(latent))
    own = F.mse_loss(book(latent).detach(), latent.detach())
    torch.testing.assert_close(loss, 1.25 * own)


def test_quantising_belongs_to_decoding() -> None:
    model = build(codes=4)
    latent = torch.randn(1, 8, 4, 4)
    near = model.codebook(latent)  # type: ignore[misc]
    assert torch.equal(model.decode(latent), model.decode(near))


def test_crops_are_cut_where_the_draws_say() -> None:
    images = photographs(6, 64)
    cut = crop(images, 32, draws_of(images))
    assert cut.shape == (6, 3, 32, 32)
    windows = images.unfold(2, 32, 1).unfold(3, 32, 1)  # (6, 3, 33, 33, 32, 32)
    places = [(windows[k] == cut[k][:, None, None]).flatten(3).all(-1).all(0).nonzero().tolist() for k in range(6)]
    assert all(places)
    assert len({tuple(place[0]) for place in places}) > 3
    assert torch.equal(crop(images, None, draws_of(images)), images)
    alone = Draws(1, 0, torch.tensor([4]), 6)  # the same sample on another rank
    assert torch.equal(crop(images[4:5], 32, alone)[0], cut[4])


@pytest.mark.parametrize("name", ["random", "vgg16"])
def test_perceptual_distance_is_zero_for_equals_and_sees_blur(name: str) -> None:
    features = random_features() if name == "random" else vgg16_features(vgg_weights())
    pictures = photographs(2).float() / 127.5 - 1
    blurred = F.avg_pool2d(pictures, 5, stride=1, padding=2, count_include_pad=False).requires_grad_()
    assert torch.equal(perceptual_distance(features, pictures, pictures), torch.zeros(2))
    distance = perceptual_distance(features, blurred, pictures)
    assert distance.min() > 1e-3
    assert torch.autograd.grad(distance.sum(), blurred)[0].abs().sum() > 0


def test_a_picture_without_any_feature_has_a_gradient() -> None:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(1, 3, 32, 32) * 2 - 1  # all features are zero
    pictures = mean.clone().requires_grad_()
    distance = perceptual_distance(random_features(), pictures, photographs(1).float() / 127.5 - 1)
    assert torch.autograd.grad(distance.sum(), pictures)[0].isfinite().all()


def vgg_layers() -> nn.Module:
    """torchvision's, with weights of the size that trained ones have."""
    from torchvision.models.vgg import cfgs, make_layers

    layers: nn.Module = make_layers(cfgs["D"])
    generator = torch.Generator().manual_seed(0)
    for weight in layers.parameters():
        weight.data.normal_(0, (2 / max(1, weight[0].numel())) ** 0.5, generator=generator)
    return layers


def vgg_weights() -> dict[str, Tensor]:
    return dict(vgg_layers().state_dict(prefix="features."))


def test_vgg_features_are_those_of_torchvision() -> None:
    theirs, tensors = vgg_layers(), vgg_weights()
    pictures = torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, expected = (pictures - mean[:, None, None]) / std[:, None, None], []
    for index, layer in enumerate(theirs.children()):
        x = layer(x.clone())
        if index in (3, 8, 15, 22, 29):
            expected.append(x)
    for ours, wanted in zip(vgg16_features(tensors)(pictures * 2 - 1), expected, strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(ours, wanted, atol=1e-3, rtol=1e-4)


def test_features_that_are_not_there_are_named(tmp_path: Any) -> None:
    with pytest.raises(BackdropError, match="nowhere"):
        open_features(str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(BackdropError, match=r"no\.such:thing"):
        open_features("no.such:thing")
    with pytest.raises(BackdropError, match=r"features\.0\.weight"):
        vgg16_features({})
    assert callable(open_features("training.perceptual:random_features"))


def adversary(start: int = 0) -> tuple[Adversary, AdversarialSection]:
    section = AdversarialSection(start=start, width=8, depth=2)
    return Adversary(build(), section), section


def terms_of(model: Adversary, section: AdversarialSection, step: int) -> dict[str, Tensor]:
    images = photographs().float() / 127.5 - 1
    decoded, _ = reconstruct(model.autoencoder, images, draws_of(images).normal, 0.0)
    return adversarial_terms(model, images, decoded, (decoded - images).abs().mean(), section, step)


def test_both_players_get_their_own_gradient_from_one_backward_pass() -> None:
    model, section = adversary()
    terms = terms_of(model, section, step=0)
    terms["loss"].backward()
    ours = [weight.grad.clone() for weight in model.discriminator.parameters()]  # type: ignore[union-attr]
    terms = terms_of(model, section, step=0)
    alone = torch.autograd.grad(terms["discriminator"], list(model.discriminator.parameters()), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, alone, strict=True))
    assert torch.autograd.grad(
        terms["discriminator"], model.autoencoder.last_weight, retain_graph=True, allow_unused=True
    ) == (None,)


def test_the_adaptive_weight_makes_both_gradients_alike_at_the_last_layer() -> None:
    layer = nn.Conv2d(2, 3, 1)
    out = layer(torch.randn(2, 2, 4, 4))
    reconstruction, generator = out.abs().mean(), 7 * out[:, 0].mean()
    weight = adaptive_weight(reconstruction, generator, layer.weight)
    norms = [
        torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in (reconstruction, generator)
    ]
    torch.testing.assert_close(weight * norms[1], norms[0], atol=0, rtol=1e-4)
    assert not weight.requires_grad


def test_before_its_start_the_discriminator_changes_nothing() -> None:
    model, section = adversary(start=5)
    before, after = terms_of(model, section, step=4), terms_of(model, section, step=5)
    images = photographs().float() / 127.5 - 1
    decoded, _ = reconstruct(model.autoencoder, images, draws_of(images).normal, 0.0)
    assert torch.equal(before["loss"], (decoded - images).abs().mean())
    before["loss"].backward()
    assert all((weight.grad == 0).all() for weight in model.discriminator.parameters())  # type: ignore[union-attr]
    assert not torch.equal(after["loss"], before["loss"])


def test_the_discriminator_learns_to_tell_and_the_autoencoder_to_pass() -> None:
    section = AutoencoderSection(
        **SMALL,
        adversarial=AdversarialSection(width=8, depth=2),
        perceptual={"weight": 0.1},  # type: ignore[arg-type]
    )
    assert section.adversarial is not None
    model, batch = Adversary(build(), section.adversarial), photographs()
    loss = reconstruction_loss(section, random_features())
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    seen = []
    for step in range(40):
        terms = loss(model, {"image": batch}, draws_of(batch, step))
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        seen.append({name: value.item() for name, value in terms.items()})
    assert {"generator", "discriminator", "adaptive_weight", "perceptual"} <= set(seen[0])
    assert seen[-1]["discriminator"] < 0.9 * seen[0]["discriminator"]
    assert seen[-1]["l1"] < 0.7 * seen[0]["l1"]
