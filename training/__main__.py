"""`python -m training <recipe> --spec <uri>`: one training stage in a process of its own."""

import os

from infra.jobs.program import Verb, main

VERBS = {
    "autoencoder": Verb("training.specs:AutoencoderSpec", "training.recipes.autoencoder:run", "train the autoencoder"),
    "latents": Verb("training.specs:LatentsSpec", "training.recipes.latents:run", "encode images and captions once"),
    "pretrain": Verb("training.specs:PretrainSpec", "training.recipes.pretrain:run", "train the transformer"),
    "finetune": Verb("training.specs:FinetuneSpec", "training.recipes.finetune:run", "random, then product masks"),
    "distil": Verb("training.specs:DistilSpec", "training.recipes.distil:run", "make a few-step student"),
}

# OpenMP reads it when torch is loaded. Its threads spin for each other by default: beside any other busy process on the
# same cores a training step then takes three times as long (measured), and the other process suffers too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    raise SystemExit(main("training", VERBS))
