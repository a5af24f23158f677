"""Recipe: teach a trained transformer one subject from a handful of photographs and a class word.

Three methods, one loss. DreamBooth (Ruiz et al. 2023) trains every weight and LoRA adapters beside them, both under a
rare word and with pictures of the class, drawn by the base itself, so that the class is not lost. Textual inversion
(Gal et al. 2022) freezes all weights and learns what a new word has to mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

import numpy as np
import torch

from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training import pictures
from training.composer_model import Loss
from training.editing import complete
from training.ema import Ema
from training.feed import Batch
from training.flow import resolution_shift
from training.models.autoencoder import Autoencoder
from training.models.dit import DiT
from training.models.io import load_model
from training.models.lora import add_lora
from training.models.text_encoder import TextEncoder
from training.parts import Embed, TorchParts
from training.personalise.bundle import Learned, save_personalised
from training.personalise.losses import inversion_loss, subject_loss
from training.personalise.rows import SubjectLoader, encode_pictures, with_text
from training.personalise.subject import PLACEHOLDER, photographs_of, prompts_for
from training.personalise.token import LearnedToken, PromptEncoder
from training.precision import device_named, fast_dtype
from training.recipes.fit import Draw, Fit, fit, forget_checkpoints
from training.recipes.flows import GUIDANCE, TEACHER_STEPS, load_dit
from training.specs import PersonaliseSpec

SHOWN = 4
M = TypeVar("M", DiT, LearnedToken)
Teach = Callable[
    [PersonaliseSpec, JobContext[PersonaliseSpec], "Studio", np.ndarray], tuple[Learned, DiT | LearnedToken, Fit]
]


def run(spec: PersonaliseSpec, job: JobContext[PersonaliseSpec]) -> JobResult:
    torch.manual_seed(spec.seed)
    studio = Studio.open(spec, job)
    photographs = photographs_of(job.store, spec.photographs, spec.image_size)
    teach: Teach = _invert if spec.config.method == "textual-inversion" else _train_weights
    learned, model, stage = teach(spec, job, studio, photographs)

    meta = {
        "dataset": spec.dataset,
        "autoencoder": spec.autoencoder,
        "text_encoder": studio.text.sha256,
        "photographs": spec.image_ids,
    }
    bundle = save_personalised(job.store, job.output, learned, model, meta)
    shown = list(islice(cycle(photographs), SHOWN))
    result = JobResult(
        metadata={"subject": spec.subject, "method": learned.method, "phrase": learned.phrase, **stage.metadata},
        files={"curve": job.put_json("curve", stage.curve)},
        data={"model": bundle, "phrase": learned.phrase},
        pictures={
            "Loss": job.put_png("loss", pictures.loss_curve(stage.curve, learned.method)),
            "Samples": job.put_png("samples", studio.grid(model, learned)),
            "Photographs": job.put_png(
                "photographs", pictures.sample_grid([shown], [""] * SHOWN, [spec.word]), spec.image_ids
            ),
        },
    )
    forget_checkpoints(job)
    return result


@dataclass
class Studio:
    """The base model with everything that draws pictures with it."""

    spec: PersonaliseSpec
    autoencoder: Autoencoder
    base: DiT
    text: TextEncoder
    device: torch.device

    @classmethod
    def open(cls, spec: PersonaliseSpec, job: JobContext[PersonaliseSpec]) -> Studio:
        device = device_named(spec.config.stage.device)
        text = TextEncoder(spec.text_encoder, spec.config.text_length, device)
        autoencoder = load_model(job.store, spec.autoencoder).to(device)
        return cls(spec, autoencoder, load_dit(job.store, spec.base).to(device), text, device)

    def draw(self, model: DiT, embed: Embed, captions: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Pictures out of nothing but their captions, uint8 (N, S, S, 3)."""
        size = self.spec.image_size
        parts = TorchParts(self.autoencoder, model.eval(), embed, size, fast_dtype(self.device.type))
        empty = np.zeros((len(captions), size, size, 3), np.uint8)
        nothing = np.zeros((len(captions), size, size), bool)
        shift = resolution_shift((size // parts.factor) ** 2, self.spec.config.stage.shift_base)
        return complete(
            parts,
            empty,
            nothing,
            captions,
            steps=TEACHER_STEPS,
            guidance=GUIDANCE,
            seeds=seeds,
            student=False,
            shift=shift,
        )

    def embed(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self.text.embed(list(captions))

    def grid(self, model: DiT | LearnedToken, learned: Learned) -> bytes:
        """What the base draws of the class beside what was learned draws of the subject, with the same seeds."""
        model.to(self.device)  # a trained one comes back on the CPU
        seeds = range(SHOWN)
        before = self.draw(self.base, self.embed, prompts_for(self.spec.word)[:SHOWN], seeds)
        captions = prompts_for(learned.phrase)[:SHOWN]
        if isinstance(model, LearnedToken):
            prompts = PromptEncoder(self.text)
            after = self.draw(self.base, lambda said: prompts.embed(model, said), captions, seeds)
        else:
            after = self.draw(model, self.embed, captions, seeds)
        rows = [list(pair) for pair in zip(before, after, strict=True)]
        return pictures.sample_grid(rows, ["base", self.spec.subject], captions)


def _train_weights(
    spec: PersonaliseSpec, job: JobContext[PersonaliseSpec], studio: Studio, photographs: np.ndarray
) -> tuple[Learned, DiT, Fit]:
    """All weights, or adapters on every linear layer."""
    section = spec.config
    learned = Learned(spec.subject, spec.word, section.method, f"{section.identifier} {spec.word}", spec.base)

    subject = with_text(
        encode_pictures(studio.autoencoder, photographs, spec.seed),
        *studio.embed(prompts_for(learned.phrase)),
        prior=False,
    )
    prior = None
    if section.prior_images and section.prior_weight:
        prompts = prompts_for(spec.word)
        captions = list(islice(cycle(prompts), section.prior_images))
        drawn = studio.draw(studio.base, studio.embed, captions, [spec.seed + k for k in range(len(captions))])
        job.picture("class", pictures.sample_grid([list(drawn[:SHOWN])], captions[:SHOWN], [spec.word]))
        prior = with_text(encode_pictures(studio.autoencoder, drawn, spec.seed), *studio.embed(prompts), prior=True)

    model = load_dit(job.store, spec.base).train()
    if section.method == "lora":
        add_lora(model, section.lora.rank, section.lora.scale)
    loss = subject_loss(section.stage, section.prior_weight)
    return learned, *_fit(spec, job, model, loss, subject, prior, studio, learned)


def _invert(
    spec: PersonaliseSpec, job: JobContext[PersonaliseSpec], studio: Studio, photographs: np.ndarray
) -> tuple[Learned, LearnedToken, Fit]:
    """Vectors in front of the text encoder; every weight stays as it is."""
    section = spec.config.textual_inversion
    learned = Learned(spec.subject, spec.word, spec.config.method, f"{PLACEHOLDER} {spec.word}", spec.base)
    captions = prompts_for(learned.phrase)
    prompts = PromptEncoder(studio.text)
    token = LearnedToken(prompts.initial(spec.word, section.vectors))
    rows = with_text(
        encode_pictures(studio.autoencoder, photographs, spec.seed), *prompts.embed(token, captions), prior=False
    )
    frozen = load_dit(job.store, spec.base).requires_grad_(False)
    loss = inversion_loss(section, frozen, prompts, captions)
    return learned, *_fit(spec, job, token, loss, rows, None, studio, learned)


def _fit(
    spec: PersonaliseSpec,
    job: JobContext[PersonaliseSpec],
    model: M,
    loss: Loss,
    subject: Batch,
    prior: Batch | None,
    studio: Studio,
    learned: Learned,
) -> tuple[M, Fit]:
    """Train `model` on the subject's rows and its class's; its average, and how it went."""
    section = spec.config.stage
    ema = Ema(model, section.ema, section.ema_every)
    loader = SubjectLoader(subject, prior, section.batch_size)
    draw = Draw(lambda average: studio.grid(average, learned))
    stage = fit(job, f"personalise-{spec.config.method}", ema, loss, loader, section, spec.seed, draw)
    return ema.module, stage
