"""Recipe: fine-tune in two stages (Pinterest Canvas): random masks on all weights, then product masks with LoRA.

The adapters are merged before the model is saved, so that what follows sees one plain transformer.
"""

from __future__ import annotations

import torch

from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training.ema import Ema
from training.models.lora import add_lora, merge_lora
from training.recipes.fit import Fit, fit
from training.recipes.flows import Latents, completion_loss, load_dit, result_of
from training.specs import FinetuneSpec

RANDOM, PRODUCT = "random-masks", "product-masks"


def run(spec: FinetuneSpec, job: JobContext[FinetuneSpec]) -> JobResult:
    first, second = spec.config.random_masks, spec.config.product_masks
    torch.manual_seed(spec.seed)
    latents = Latents(spec, job)
    draw = latents.draw()
    model = load_dit(job.store, spec.base).train()

    ema = Ema(model, first.ema)
    loss = completion_loss(first, first.product_share, first.empty_share)
    loader = latents.loader(first.batch_size, spec.seed + 1)
    stages: dict[str, Fit] = {RANDOM: fit(job, RANDOM, ema, loss, loader, first, spec.seed + 1)}

    adapted = ema.module.train()
    add_lora(adapted, second.rank, second.scale)
    ema = Ema(adapted, second.ema)
    loss = completion_loss(second, product_share=1.0, empty_share=0.0)
    loader = latents.loader(second.batch_size, spec.seed + 2)
    stages[PRODUCT] = fit(job, PRODUCT, ema, loss, loader, second, spec.seed + 2)
    merge_lora(ema.module)
    return result_of(job, spec, ema.module, stages, draw, base=spec.base)
