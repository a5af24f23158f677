"""Running a plan. Give it only bytes that were verified, or built in this process: a plan is executable code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from deploy.engines.tensorrt.profiles import fitting
from infra.errors import BackdropError


class TrtGraph:
    """One plan with its execution context on the current CUDA device."""

    def __init__(self, name: str, plan: bytes) -> None:
        import tensorrt as trt

        self._name = name
        self._runtime: Any = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        # Plans with host code stay refused: `engine_host_code_allowed` is False unless set.
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackdropError(
                f"TensorRT {trt.__version__} refuses the plan of {name}.",
                "Build it again on this GPU with this release.",
            )
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise BackdropError(
                f"TensorRT {trt.__version__} has no device memory to run the plan of {name}.",
                "Free device memory, or use a GPU with more.",
            )
        self._stream = torch.cuda.Stream()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {entry: self._engine.get_tensor_mode(entry) for entry in names}
        self._inputs = [entry for entry in names if modes[entry] == trt.TensorIOMode.INPUT]
        (self._output,) = [entry for entry in names if modes[entry] == trt.TensorIOMode.OUTPUT]
        self._ranges = [
            {
                entry: tuple(tuple(shape) for shape in self._engine.get_tensor_profile_shape(entry, index))
                for entry in self._inputs
            }
            for index in range(self._engine.num_optimization_profiles)
        ]
        self._profile = 0

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        if self._context is None:
            raise ValueError("this engine was closed")
        rows, most = len(feeds[self._inputs[0]]), max(shapes[self._inputs[0]][2][0] for shapes in self._ranges)
        if rows > most:  # evaluation asks for more at once than a plan for serving takes
            parts = [slice(start, start + most) for start in range(0, rows, most)]
            return np.concatenate([self({name: feeds[name][part] for name in self._inputs}) for part in parts])
        self._choose({name: feeds[name].shape for name in self._inputs})
        with torch.cuda.stream(self._stream):
            # Held until the stream is synchronised: the context keeps addresses, not references.
            held = {name: torch.from_numpy(np.ascontiguousarray(feeds[name])).cuda() for name in self._inputs}
            for name, tensor in held.items():
                self._context.set_input_shape(name, tuple(tensor.shape))
                self._context.set_tensor_address(name, tensor.data_ptr())
            output = torch.empty(tuple(self._context.get_tensor_shape(self._output)), device="cuda")
            self._context.set_tensor_address(self._output, output.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise BackdropError(
                    f"TensorRT failed to run the plan of {self._name}.", "See the log above; free device memory."
                )
        self._stream.synchronize()
        return output.cpu().numpy()

    def _choose(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Switch to the profile that holds these shapes. Raises BackdropError where none does."""
        try:
            index = fitting(shapes, self._ranges)
        except LookupError as error:
            raise BackdropError(
                f"The plan of {self._name} has no profile for {error}.",
                "Ask for a picture size of the preset's buckets, or widen export.batch and build again.",
            ) from None
        if index != self._profile:
            self._context.set_optimization_profile_async(index, self._stream.cuda_stream)
            self._stream.synchronize()
            self._profile = index

    def close(self) -> None:
        self._context = self._engine = self._runtime = None
