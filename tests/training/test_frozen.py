"""Frozen networks lie on their rank's device, follow a batch to its own, and then stay there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training import precision
from training.frozen import beside, own_device


def test_a_module_is_moved_when_it_lies_elsewhere_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    module, there = nn.Linear(2, 2), torch.empty(1, device="meta")
    assert beside(module, there) is module
    assert module.weight.device == there.device
    monkeypatch.setattr(nn.Module, "to", lambda *given: pytest.fail("walked through all weights again"))
    beside(module, there)


def test_each_rank_s_encoders_lie_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(precision, "device_named", lambda wanted: torch.device("cuda"))
    assert own_device("auto") == torch.device("cuda", 3)
