"""Frozen networks follow a batch to its device, and then stay there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.frozen import beside


def test_a_module_is_moved_when_it_lies_elsewhere_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    module, there = nn.Linear(2, 2), torch.empty(1, device="meta")
    assert beside(module, there) is module
    assert module.weight.device == there.device
    monkeypatch.setattr(nn.Module, "to", lambda *given: pytest.fail("walked through all weights again"))
    beside(module, there)
