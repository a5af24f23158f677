"""What a picture costs in energy, from the machine's own counters; where there is none, nothing is guessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")

Counter = Callable[[], float]
"""Joules since some moment."""


@dataclass(frozen=True)
class Energy:
    """`joules` per picture, of the whole GPU or processor package; None where no counter can be read, `source` says
    which it was or why nothing was measured. `watts` is the mean over the run."""

    joules: float | None
    watts: float | None
    source: str

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def energy_per_picture(run: Callable[[], int], device: torch.device, rapl: Path = RAPL) -> Energy:
    """Calls `run` once: it makes pictures for a second or so at least (counters tick in ms), and says how many.

    Whatever else the machine does meanwhile is counted too. Where there is no counter it is not called.

    Raises:
        ValueError: no pictures.
    """
    read, source = _gpu(device) if device.type == "cuda" else _package(rapl)
    if read is None:
        return Energy(None, None, f"not measured: {source}")
    start, before = time.monotonic(), read()
    pictures = run()
    joules = read() - before
    if pictures < 1:
        raise ValueError(f"energy per picture of {pictures} pictures")
    return Energy(joules / pictures, joules / max(time.monotonic() - start, 1e-9), source)


def _gpu(device: torch.device) -> tuple[Counter | None, str]:
    from infra.jobs.ranks import Place
    from training.gauges.power import Power

    power = Power.of(device, Place())
    if power is None:
        return None, "the GPU's energy counter cannot be read (NVML)"

    def read() -> float:
        torch.cuda.synchronize(device)  # what was queued has to have been done
        return float(power.counter())

    return read, f"NVML, {torch.cuda.get_device_name(device)}"


def _package(folder: Path) -> tuple[Counter | None, str]:
    zones = sorted(folder.glob("intel-rapl:[0-9]*"))
    packages = [zone for zone in zones if zone.name.count(":") == 1]  # deeper ones are parts of these
    try:
        counters = [_Rapl(zone) for zone in packages]
    except (OSError, ValueError) as error:
        return None, f"the processor's energy counter cannot be read: {error}"
    if not counters:
        return None, f"no processor energy counter (RAPL) below {folder}"
    return lambda: sum(counter() for counter in counters), f"RAPL, {len(counters)} package(s)"


class _Rapl:
    """A package's counter, unwrapped: it begins anew at `max_energy_range_uj`, after a minute or more at full load."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last, self._wrapped = self._value(), 0

    def __call__(self) -> float:
        value = self._value()
        if value < self._last:
            self._wrapped += self._range
        self._last = value
        return (value + self._wrapped) / 1e6

    def _value(self) -> int:
        return int(self._file.read_text())
