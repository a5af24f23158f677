"""A stand-in for `tensorrt` that records every name which is used of it, and behaves as the calls expect."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class Recorder:
    """`module` takes tensorrt's place; `names` are the attributes that were read or set, `calls` what was called with.

    `answers` overrides what a name gives. Whatever nobody answers is an object of the same kind.
    """

    def __init__(self, version: str, **answers: Any) -> None:
        self.names: set[str] = set()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Any] = {"__version__": version, **answers}
        self.module: Any = _Recorded(self, "tensorrt")

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of `name`."""
        return [given for called, given in self.calls if called == name]


class _Recorded:
    def __init__(self, recorder: Recorder, path: str) -> None:
        object.__setattr__(self, "_recorder", recorder)
        object.__setattr__(self, "_path", path)

    def __getattr__(self, name: str) -> Any:
        recorder: Recorder = self._recorder
        if name.startswith("__") and name not in recorder.answers:
            raise AttributeError(name)
        recorder.names.add(name)
        if name in recorder.answers:
            answer = recorder.answers[name]
            return _Called(recorder, name, answer) if callable(answer) else answer
        return _Recorded(recorder, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._recorder.names.add(name)
        self._recorder.calls.append((f"{name}=", (value,)))

    def __call__(self, *given: Any) -> Any:
        self._recorder.calls.append((self._path, given))
        return _Recorded(self._recorder, self._path)

    def __int__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return str(self._path)


class _Called:
    def __init__(self, recorder: Recorder, name: str, answer: Callable[..., Any]) -> None:
        self._recorder, self._name, self._answer = recorder, name, answer

    def __call__(self, *given: Any) -> Any:
        self._recorder.calls.append((self._name, given))
        return self._answer(*given)


LAYERS = {
    "Layers": [
        {"Name": "__myl_Cast_Mul", "Outputs": [{"Name": "a", "Format/Datatype": "Row major linear FP32"}]},
        {"Name": "_gemm_mha_v2_myl0_1", "Outputs": [{"Name": "b", "Format/Datatype": "Row major linear FP16"}]},
        {"Name": "x", "LayerType": "kgen", "TacticName": "fmha_v2_flash_attention_fp16_S_64", "Outputs": []},
    ]
}


def builder(inputs: list[str], **answers: Any) -> Recorder:
    """A recorder that builds: a network with these inputs, a plan, a timing cache and three layers."""
    given: dict[str, Any] = {
        "num_inputs": len(inputs),
        "get_input": lambda index: SimpleNamespace(name=inputs[index]),
        "num_errors": 0,
        "set_timing_cache": lambda cache, ignore: True,
        "get_timing_cache": lambda: SimpleNamespace(serialize=lambda: b"measured"),
        "build_serialized_network": lambda network, config: b"plan",
        "get_engine_information": lambda form: json.dumps(LAYERS),
        "device_memory_size_v2": 4096,
    }
    return Recorder("10.16.1", **{**given, **answers})


def runner(
    ranges: list[dict[str, tuple[tuple[int, ...], ...]]], output: str, shape: tuple[int, ...], **answers: Any
) -> Recorder:
    """A recorder that runs: a plan with one profile per entry of `ranges` (input → min, opt, max)."""
    names = [*ranges[0], output]
    given: dict[str, Any] = {
        "num_io_tensors": len(names),
        "get_tensor_name": lambda index: names[index],
        "get_tensor_mode": lambda name: "out" if name == output else "in",
        "TensorIOMode": SimpleNamespace(INPUT="in", OUTPUT="out"),
        "num_optimization_profiles": len(ranges),
        "get_tensor_profile_shape": lambda name, index: ranges[index][name],
        "get_tensor_shape": lambda name: shape,
        "execute_async_v3": lambda stream: True,
        "set_input_shape": lambda name, shape: True,
    }
    return Recorder("11.4.0", **{**given, **answers})


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)
