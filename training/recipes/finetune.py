"""Recipe: fine-tune in stages (Pinterest Canvas): random masks on all weights, then product masks with LoRA.

The second stage sees product images only, their masks exact or with an uneven rim around the product, and so learns
where a product ends. A third, short one may go on with the same adapters on a curated set. The adapters are merged
before the model is saved, so that what follows sees one plain transformer; they and the first stage's model are saved
beside it.
"""

from __future__ import annotations

import torch

from infra.bundles import write_bundle
from infra.jobs.program import JobContext
from infra.jobs.spec import JobResult
from training.completion import completion_loss
from training.ema import Ema
from training.models.io import save_model
from training.models.lora import add_lora, lora_files, merge_lora, train_adapters
from training.recipes.fit import Fit, fit
from training.recipes.flows import Latents, load_dit, result_of
from training.selection import curated, with_products
from training.specs import FinetuneSpec

RANDOM, PRODUCT, CURATED = "random-masks", "product-masks", "curated"


def run(spec: FinetuneSpec, job: JobContext[FinetuneSpec]) -> JobResult:
    first, second, third = spec.config.random_masks, spec.config.product_masks, spec.config.curated
    torch.manual_seed(spec.seed)
    latents = Latents(spec, job)
    draw = latents.draw(first)
    model = load_dit(job.store, spec.base).train()
    patch, jittered = model.config.patch, latents.jittered
    meta = {"dataset": spec.dataset, "latents": spec.latents, "base": spec.base}

    ema = Ema(model, first.ema, first.ema_every)
    shares = first.product_share, first.empty_share
    loss = completion_loss(first, *shares, patch=patch, jittered=jittered)
    loader = latents.loader(first.batch_size, spec.seed + 1)
    held_out = latents.held_out(first, *shares)
    stages: dict[str, Fit] = {RANDOM: fit(job, RANDOM, ema, loss, loader, first, spec.seed + 1, None, held_out)}
    stage1 = save_model(job.store, job.output, "dit", ema.module, {**meta, "shift": latents.shift(first)})

    adapted = ema.module.train()
    torch.manual_seed(spec.seed)  # the first stage has left each rank with a seed of its own
    add_lora(adapted, second.rank, second.scale)
    ema = Ema(adapted, second.ema, second.ema_every)
    loss = completion_loss(second, 1.0, 0.0, patch=patch, jittered=jittered)
    loader = with_products(latents.loader(second.batch_size, spec.seed + 2))
    held_out = latents.held_out(second, 1.0, 0.0)
    stages[PRODUCT] = fit(job, PRODUCT, ema, loss, loader, second, spec.seed + 2, None, held_out)

    if third is not None:
        ids = None if third.ids is None else set(job.store.get(third.ids).decode().split())
        ema = Ema(train_adapters(ema.module.train()), third.ema, third.ema_every)
        loss = completion_loss(third, 1.0, 0.0, patch=patch, jittered=jittered)
        loader = curated(latents.loader(third.batch_size, spec.seed + 4), third, ids)
        held_out = latents.held_out(third, 1.0, 0.0)
        stages[CURATED] = fit(job, CURATED, ema, loss, loader, third, spec.seed + 4, None, held_out)

    lora = write_bundle(job.store, job.output, "lora", lora_files(ema.module), {**meta, "stage1": stage1})
    merge_lora(ema.module)
    shift = latents.shift(second if third is None else third)
    result = result_of(job, spec, ema.module, stages, draw, base=spec.base, shift=shift)
    result.data |= {"stage1": stage1, "lora": lora}
    return result
