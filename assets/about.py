"""What each asset is, in words for someone who has never seen the line: the text of its page, of its MLflow experiment
and of its registered model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """`what`: the thing itself, as the first sentence that is read; `made_from`: its inputs; `look`: what is worth a
    look on its page; `bad`: what a bad value means, and what to do then."""

    what: str
    made_from: str
    look: str
    bad: str

    def markdown(self) -> str:
        """The description of the asset's page."""
        rest = ("Made from", self.made_from), ("Look at", self.look), ("A bad value", self.bad)
        return "\n\n".join([self.what, *(f"**{head}:** {text}" for head, text in rest)])


ABOUT: dict[str, About] = {
    "raw_images": About(
        "The list of all photographs in one delivery: where each lies, its size, its licence and its caption. The "
        "photographs themselves stay where they are.",
        "one delivery, which is a folder or bucket prefix that somebody handed in.",
        "`files` (how many were found), `without_caption` and `problems` (which could not be listed).",
        "many `problems` mean that the delivery is damaged or that its folder is not what it should be: "
        "`backdrop quarantine` names them one by one.",
    ),
    "filtered_shards": About(
        "The photographs of one delivery that are good enough to learn from, packed for training with caption and "
        "product mask. Whatever is left out is counted with its reason.",
        "`raw_images` of the same delivery.",
        "the funnel (what each filter dropped), *Dropped, and why* (examples), `share_kept` from delivery to delivery, "
        "and the report among the files.",
        "a falling `share_kept` means that the photographs or the filters have changed: the funnel says which filter "
        "drops more than before, and the drift checks whether this delivery is unlike the earlier ones.",
    ),
    "training_set": About(
        "The dataset version: the one list of everything that models may learn from, under one name. All that comes "
        "later says which version it was trained on.",
        "the `filtered_shards` of all deliveries.",
        "`images` (to learn from) and `held_out` (kept apart, to be judged by).",
        "fewer `images` than last time mean that pictures were taken down or that a delivery was filtered more "
        "strictly; no `held_out` pictures mean that nothing can be judged.",
    ),
    "autoencoder": About(
        "A model that squeezes every picture into a small grid of numbers and draws it again from those, so that the "
        "larger models work on the small grid.",
        "`training_set`.",
        "*Samples* (each picture beside its redrawn copy), `psnr_db` (how alike they are) and the loss curve.",
        "a low `psnr_db` or blurred copies limit everything that comes after: no later model can be sharper than "
        "this one. Below 25 dB train it longer.",
    ),
    "latent_shards": About(
        "All training pictures in their small form, computed once, so that the trainings that follow need not do it "
        "again and again.",
        "`training_set`, by `autoencoder`.",
        "`images_encoded` (new this time) and `images_reused` (known from before).",
        "`images_reused` at 0 although few pictures are new means that the autoencoder or the settings have changed.",
    ),
    "pretrained_dit": About(
        "The foundation model: it has learned what pictures look like, and to complete a picture from a part of it and "
        "a caption.",
        "`latent_shards`, seen through `autoencoder`.",
        "the loss curve (it should fall and then flatten), *Samples* (product, what was generated, both together, the "
        "photograph) and `images_per_second`.",
        "a `loss` that rises or stands still from the start is a training that failed; much lower "
        "`images_per_second` than last time is a machine that is busy or waits for data (`data_wait_share`).",
    ),
    "inpainting_finetune": About(
        "The foundation model taught its job: to paint a background around a product and nothing over it. It is "
        "trained in passes, first with random holes, then with the masks of products.",
        "`pretrained_dit`, on `latent_shards`.",
        "*Samples* (the product must look untouched and stand in the asked scene) and the passes' losses.",
        "products that grow new parts or backgrounds that ignore the caption show here first; `evaluation_report` "
        "measures both as `expansion` and `adherence`.",
    ),
    "distilled_model": About(
        "A fast copy of the fine-tuned model: it needs a few steps for a picture where its teacher needs many.",
        "`inpainting_finetune` (the teacher), on `latent_shards`.",
        "*Samples* beside the teacher's on `inpainting_finetune`, and the loss curve.",
        "flat or smeared samples mean that the student has not caught up: the check `student_within_margin` of "
        "`evaluation_report` says by how many points it is behind.",
    ),
    "tensorrt_engine": About(
        "What serves pictures: the fast model compiled for this machine, checked to answer as the original does. It is "
        "built by TensorRT where that is installed and by ONNX Runtime otherwise; `backend` says which.",
        "`distilled_model` and `autoencoder`.",
        "`latency_p50_ms` and `latency_p95_ms` (time for one picture, typical and slow), and the two parity checks.",
        "a failed parity check means that the compiled model answers differently: it must not serve. A higher "
        "latency than last time is a slower machine or a larger model.",
    ),
    "evaluation_report": About(
        "How good the engine is, measured on pictures that nothing was trained on, beside its teacher, simple methods "
        "and the engine that serves now.",
        "`tensorrt_engine`, `inpainting_finetune` and the held-out pictures of `training_set`.",
        "the report (link), the checks, *Known failures* (the worst answers, what was given over what came back), "
        "`adherence` (does the picture show what was asked; 1 is best) and `expansion` (how far products grow; 0 is "
        "best).",
        "an error among the checks keeps the engine from being promoted; `product_identity` below 1 means that "
        "product pixels were changed, which must never happen.",
    ),
    "promotion": About(
        "The decision which engine serves: the new one becomes challenger, and champion when its checks, the "
        "comparison with the present champion and the approval policy agree.",
        "`tensorrt_engine` and `evaluation_report`.",
        "`outcome` (champion, or why not), `champion_version` and the model card.",
        "`promoted` at 0 is an answer and no failure: `outcome` says what held the engine back.",
    ),
    "personalized_model": About(
        "The foundation model taught one product, person or pet from a few photographs; only what was learned is "
        "kept, beside the id of the model that it belongs to.",
        "`pretrained_dit` and the photographs that `backdrop personalise` recorded for this subject.",
        "*Samples* (the subject must be recognised in new scenes) and the loss curve.",
        "samples that all look like the photographs were trained too long, samples without the subject too little.",
    ),
}


def describe(asset: str) -> str:
    """The text of an asset's page."""
    return ABOUT[asset].markdown()


def tags_of(asset: str) -> dict[str, str]:
    """For Dagster's search: the asset's place in the line. What is personal stands beside it."""
    return {"backdrop/step": f"{list(ABOUT).index(asset) + 1:02d}"} if asset != "personalized_model" else {}
