"""Frozen networks follow a batch to its device, and then stay there; a rank's device is its own GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training import precision
from training.frozen import beside


def test_a_module_is_moved_when_it_lies_elsewhere_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    module, there = nn.Linear(2, 2), torch.empty(1, device="meta")
    assert beside(module, there) is module
    assert module.weight.device == there.device
    monkeypatch.setattr(nn.Module, "to", lambda *given: pytest.fail("walked through all weights again"))
    beside(module, there)


def test_each_rank_computes_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.device_named("cpu") == torch.device("cpu")
    assert precision.device_named("auto") == torch.device("cuda", 3)
