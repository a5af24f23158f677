"""What is asked of Composer, transformers and Streaming when they are imported lean."""

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

from training._compat.hidden import hidden

CONTRACT = """
import sys
from training._compat.composer import Callback, ComposerModel, Logger, State, Trainer, save_checkpoint
heavy = {"sklearn", "scipy", "pandas", "mlflow", "mcli"} & set(sys.modules)
assert not heavy, heavy
import torch
class Model(ComposerModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def forward(self, batch):
        return self.layer(batch)
    def loss(self, outputs, batch, *args, **kwargs):
        return outputs.square().mean()
class Seen(Callback):
    steps = 0
    def batch_end(self, state: State, logger: Logger) -> None:
        Seen.steps = int(state.timestamp.batch)
model = Model()
Trainer(model=model, train_dataloader=torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=2), max_duration="3ba",
    optimizers=torch.optim.SGD(model.parameters(), 0.1), callbacks=[Seen()], device="cpu", progress_bar=False).fit()
assert Seen.steps == 3
import sklearn, matplotlib  # visible again
"""


@pytest.mark.integration
def test_composer_imports_lean_and_its_trainer_works() -> None:
    subprocess.run([sys.executable, "-c", CONTRACT], check=True, timeout=120)


def test_a_hidden_package_looks_absent_and_comes_back() -> None:
    with hidden("wave", "pyyaml", "yaml_that_is_not_there"):
        assert importlib.util.find_spec("wave") is None
        with pytest.raises(ModuleNotFoundError, match="hidden"):
            importlib.import_module("wave")
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version("pyyaml")
        find_spec = importlib.util.find_spec
    assert find_spec("wave") is not None  # what somebody kept is honest afterwards
    assert importlib.metadata.version("pyyaml")
    assert importlib.import_module("wave")


def test_composer_takes_its_mesh_and_its_folder_from_our_sharding() -> None:
    """Its own class shards over all ranks only, and writes sharded checkpoints into a folder of its own naming."""
    from training._compat.composer import Sharding  # before Composer itself, which it imports lean

    FSDP2Config = Sharding.__base__
    nodes, plain = Sharding(4, "sharded"), Sharding(1, "full")
    assert FSDP2Config.__module__ == "composer.utils.parallelism"
    assert (nodes.data_parallel_replicate_degree, plain.data_parallel_replicate_degree) == (4, None)
    assert (nodes.state_dict_type, plain.state_dict_type) == ("sharded", "full")
    assert nodes.sharded_ckpt_prefix_dir == "."
    assert FSDP2Config.data_parallel_replicate_degree.fget(nodes) is None  # why it is overridden
