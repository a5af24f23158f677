"""A stand-in for `tensorrt` that records every name which is used of it, and behaves as the calls expect.

With a graph to build, and the shapes to run and refit it with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from deploy.engines.model import OnnxModel
from deploy.engines.tensorrt.profiles import Profile


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


PROFILE = Profile("1x1", {"batch": 1, "rows": 4}, {"batch": 1, "rows": 4}, {"batch": 4, "rows": 4})
RANGES = [
    {"x": ((1, 4), (1, 4), (4, 4)), "t": ((1,), (1,), (4,))},
    {"x": ((1, 8), (1, 8), (4, 8)), "t": ((1,), (1,), (4,))},
]
GOLDEN = {"x": zeros(2, 4), "t": zeros(2)}


def graph(half: bool = True, attentions: int = 2, heads: Sequence[int] = (1, 1)) -> OnnxModel:
    """Softmaxes between products, of inputs (batch, *heads, 2·rows)."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float16 if half else np.float32), "w")
    nodes = []
    for index in range(attentions):
        nodes += [
            helper.make_node("MatMul", ["x", "w"], [f"s{index}"]),
            helper.make_node("Softmax", [f"s{index}"], [f"p{index}"]),
            helper.make_node("MatMul", [f"p{index}", "w"], [f"y{index}"]),
        ]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, ["batch", *heads, "2*rows"])],
        [helper.make_tensor_value_info("y0", kind, None)], [weight],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    return OnnxModel("g.onnx", model.SerializeToString())


def refitter(**answers: Any) -> Recorder:
    given: dict[str, Any] = {
        "refittable": True,
        "get_missing_weights": list,
        "refit_from_bytes": lambda graph: True,
        "refit_from_file": lambda path: True,
        "refit_cuda_engine": lambda: True,
        "num_errors": 1,
        "get_error": lambda index: "a shape changed",
        "serialize": lambda: b"refitted",
    }
    return runner(RANGES, "y", (2, 8), **{**given, **answers})
