"""What this rank's GPU draws, from the counter that it keeps itself (NVML; the package nvidia-ml-py is optional)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from infra.jobs.ranks import Place

log = logging.getLogger(__name__)


class Power:
    """`counter()` is the energy in joules since some moment. Reads mean watts of this GPU, and joules, all of them and
    per image, over all ranks as this rank's share tells."""

    def __init__(self, counter: Any, here: Place) -> None:
        self.counter, self.ranks = counter, here.ranks
        self._last = counter()

    @classmethod
    def of(cls, device: torch.device, here: Place) -> Power | None:
        """None where there is no GPU, or nobody to ask about it."""
        if device.type != "cuda":
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
            return cls(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000, here)
        except Exception as error:  # a driver or a GPU that does not tell is no reason not to train
            log.info("power is not measured: %s: %s", type(error).__name__, error)
            return None

    def read(self, images: int, seconds: float) -> Mapping[str, float]:
        before, self._last = self._last, self.counter()
        joules = self._last - before
        everyones = joules * self.ranks
        return {"watts": joules / seconds, "joules": everyones, "joules_per_image": everyones / max(images, 1)}
