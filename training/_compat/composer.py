"""Composer, imported in a third of the time.

`import composer` takes 14 to 17 s on two cores because torchmetrics and Composer look for every optional package
(transformers, scikit-learn, scipy, matplotlib, …) and import what they find. Nothing here uses those, so they are
hidden meanwhile. Composer 0.32.1 is the last release, hence this module and its contract test are all that can break.
"""

from __future__ import annotations

import importlib
import sys
import types

from infra._compat.streaming import load
from training._compat.hidden import hidden

OPTIONAL = [
    "IPython",
    "boto3",
    "botocore",
    "comet_ml",
    "databricks",
    "flash_attn",
    "google",
    "jax",
    "libcloud",
    "librosa",
    "matplotlib",
    "mlflow",
    "neptune",
    "nltk",
    "oci",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "paramiko",
    "peft",
    "pycocotools",
    "pytest",
    "scipy",
    "sklearn",
    "slack_sdk",
    "tensorboard",
    "tensorflow",
    "torch_xla",
    "torchaudio",
    "transformer_engine",
    "transformers",
    "wandb",
]

# Composer's platform logger, which is never made here, imports its vendor's command line (1 s).
_stub = sys.modules.setdefault("mcli", types.ModuleType("mcli"))
try:
    load()  # Composer imports streaming too, and must find the lean one
    with hidden(*OPTIONAL):
        importlib.import_module("composer.algorithms")  # the Trainer imports it when it is built
        from composer import Callback, ComposerModel, Logger, State, Trainer
        from composer.utils.checkpoint import save_checkpoint
        from composer.utils.dist import initialize_dist
        from composer.utils.parallelism import FSDP2Config
finally:
    if not hasattr(_stub, "__file__"):
        del sys.modules["mcli"]


class Sharding(FSDP2Config):
    """FSDP2 over all ranks, or (HSDP) `copies` times over as many groups of them.

    Composer builds the mesh from this property, which its own class answers for one group only.
    """

    def __init__(self, copies: int, state_dict_type: str) -> None:
        self._copies = copies
        super().__init__(state_dict_type=state_dict_type)

    @property
    def data_parallel_replicate_degree(self) -> int | None:
        return self._copies if self._copies > 1 else None

    @property
    def sharded_ckpt_prefix_dir(self) -> str:
        return "."  # the folder that is given, not one of its own inside


__all__ = [
    "Callback",
    "ComposerModel",
    "Logger",
    "Sharding",
    "State",
    "Trainer",
    "initialize_dist",
    "save_checkpoint",
]
