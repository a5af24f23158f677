"""`python -m training <recipe> --spec <uri>`: one training stage in a process of its own."""

from infra.jobs.program import Verb, main

VERBS = {
    "autoencoder": Verb("training.specs:AutoencoderSpec", "training.recipes.autoencoder:run", "train the autoencoder"),
    "sweep": Verb("training.specs:SweepSpec", "training.recipes.sweep:run", "reconstruction against latent size"),
    "latents": Verb("training.specs:LatentsSpec", "training.recipes.latents:run", "encode images and captions once"),
    "pretrain": Verb("training.specs:PretrainSpec", "training.recipes.pretrain:run", "train the transformer"),
    "finetune": Verb("training.specs:FinetuneSpec", "training.recipes.finetune:run", "random, then product masks"),
    "personalise": Verb("training.specs:PersonaliseSpec", "training.recipes.personalise:run", "teach it one subject"),
    "distil": Verb("training.specs:DistilSpec", "training.recipes.distil:run", "make a few-step student"),
}

if __name__ == "__main__":
    raise SystemExit(main("training", VERBS))
