"""The TensorRT backend: plans built on the GPU that runs them, from the same ONNX files.

Imported only where `tensorrt` is installed. One code path for TensorRT 10 and 11: strong typing, named tensors,
`execute_async_v3`. Device memory is PyTorch's, so that no second CUDA binding is needed.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from infra.errors import BackdropError

log = logging.getLogger(__name__)

BACKEND = "tensorrt"


@dataclass(frozen=True)
class Profile:
    """The sizes a plan is built for: `low` ≤ `best` ≤ `high`, each symbol of the ONNX file → its value.

    A dimension of the ONNX file is a number, a symbol, or a number times a symbol ("2*rows").
    """

    low: Mapping[str, int]
    best: Mapping[str, int]
    high: Mapping[str, int]

    def shapes(self, dimensions: list[int | str]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(min, opt, max) shapes of one input. Raises KeyError for a symbol that the profile does not know."""
        low, best, high = (
            tuple(_resolve(dimension, sizes) for dimension in dimensions) for sizes in (self.low, self.best, self.high)
        )
        return low, best, high


def _resolve(dimension: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    factor, _, symbol = dimension.rpartition("*")
    return int(factor or 1) * sizes[symbol.strip()]


def available() -> str | None:
    """None where TensorRT can run; otherwise why it cannot, in words for the log."""
    if importlib.util.find_spec("tensorrt") is None:
        return "the package tensorrt is not installed"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    try:
        import tensorrt  # noqa: F401
    except (ImportError, OSError) as error:
        return f"tensorrt does not import ({error})"
    return None


def version() -> str:
    """The installed release."""
    import tensorrt

    return str(tensorrt.__version__)


def build_plan(name: str, model: bytes, profile: Profile) -> bytes:
    """Compile one ONNX model (types as the file states them) for this machine's GPU. Minutes.

    Raises BackdropError with the parser's own words for a graph that TensorRT cannot take.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Required on TensorRT 10, always on (and harmless to ask for) on 11.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BackdropError(
            f"TensorRT {trt.__version__} does not take {name}: {reasons}", "Use the backend onnxruntime."
        )
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    dimensions = dimensions_of(model)
    for index in range(network.num_inputs):
        entry = network.get_input(index).name
        shapes.set_shape(entry, *profile.shapes(dimensions[entry]))
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackdropError(f"TensorRT {trt.__version__} could not build {name}.", "Use the backend onnxruntime.")
    log.info("built a TensorRT plan from %s: %.1f MB", name, plan.nbytes / 1e6)
    return bytes(plan)


def dimensions_of(model: bytes) -> dict[str, list[int | str]]:
    """Input name → its dimensions as the ONNX file states them; TensorRT itself only says -1."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    return {entry.name: [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in graph.input}


class TrtGraph:
    """One plan with its execution context on the current CUDA device."""

    def __init__(self, plan: bytes) -> None:
        import tensorrt as trt

        self._runtime: Any = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackdropError(
                f"TensorRT {trt.__version__} refuses this plan.", "Build it again on this GPU with this release."
            )
        self._context: Any = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        (self._output,) = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.cuda.stream(self._stream):
            # Held until the stream is synchronised: the context keeps addresses, not references.
            held = {name: torch.from_numpy(feeds[name]).cuda() for name in self._inputs}
            for name, tensor in held.items():
                if not self._context.set_input_shape(name, tuple(tensor.shape)):
                    raise BackdropError(
                        f"The plan was not built for {name} of shape {tuple(tensor.shape)}.",
                        "Widen the profile in the export section and build again.",
                    )
                self._context.set_tensor_address(name, tensor.data_ptr())
            output = torch.empty(tuple(self._context.get_tensor_shape(self._output)), device="cuda")
            self._context.set_tensor_address(self._output, output.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise BackdropError("TensorRT failed to run the plan.", "See the log above; free device memory.")
        self._stream.synchronize()
        return output.cpu().numpy()

    def close(self) -> None:
        self._context = self._engine = self._runtime = None
