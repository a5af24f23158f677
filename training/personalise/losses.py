"""What a personalisation minimises: flow matching on the subject, and on its class so that the class is not lost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training import flow
from training.batches import choose
from training.composer_model import Loss
from training.draws import Draws
from training.feed import Batch
from training.frozen import beside
from training.models.dit import DiT
from training.personalise.token import LearnedToken, PromptEncoder
from training.precision import mixed
from training.presets.sections import PersonaliseStageSection


def subject_loss(section: PersonaliseStageSection, prior_weight: float) -> Loss:
    """DreamBooth's (Ruiz et al. 2023, eq. 2): the subject's rows, plus `prior_weight` times the class's.

    A share `empty_share` of rows is masked entirely, text to image; the others have a random hole, so that the subject
    can be painted into a picture.
    """

    def loss(model: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        chosen = choose(batch, 0.0, section.empty_share, section.text_dropout, draws)
        x, mask = chosen["latent"], chosen["mask"]  # (B, C, h, w), (B, 1, h, w)
        noise = draws.normal("noise", *x.shape[1:])
        shift = flow.resolution_shift(x.shape[2] * x.shape[3], section.shift_base)
        t = flow.logit_normal_times(draws, section.time_mean, section.time_std, shift)
        with mixed(x.device):
            predicted = model(
                flow.interpolate(x, noise, t), t, chosen["masked"], mask, chosen["text"], chosen["text_length"]
            )
        error = flow.weighted_error(predicted.float(), flow.velocity(x, noise), mask, section.hole_weight)  # (B,)
        # Each part's mean is over its share of the global batch, which every rank's rows add up to.
        weight = torch.where(batch["prior"], prior_weight, 1.0)
        return {"loss": (weight * error).mean()}

    return loss


def inversion_loss(section: PersonaliseStageSection, dit: DiT, prompts: PromptEncoder, captions: list[str]) -> Loss:
    """Textual inversion's (Gal et al. 2022, eq. 2): the same on the subject alone, into a token's vectors.

    `dit` is frozen; the batch's own text is not read, for the captions are encoded anew with the token as it is.
    """
    inner = subject_loss(section, prior_weight=0.0)

    def loss(token: nn.Module, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        assert isinstance(token, LearnedToken)
        count = len(batch["latent"])
        with mixed(token.vectors.device):
            text, lengths = prompts(token, captions)  # (V, L, E), (V,)
        spoken = {**batch, "text": text.expand(count, *text.shape), "text_length": lengths.expand(count, -1)}
        return dict(inner(beside(dit, text), spoken, draws))

    return loss
