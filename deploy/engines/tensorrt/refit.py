"""New weights in a plan that is there: seconds instead of minutes, and wrong without a word where a name changed.

A weight that the new file lacks keeps its old value (TensorRT#1612). So a refit counts only when none is missing and
the plan then computes what the new graph does on golden inputs; otherwise build again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deploy.engines.model import OnnxModel
from deploy.engines.tensorrt.runtime import TrtGraph
from deploy.parity import relative_l2
from infra.errors import BackdropError

REMEDY = "Build the plan again from the new graph."


def refit(
    name: str, plan: bytes, model: OnnxModel, golden: Mapping[str, np.ndarray], expected: np.ndarray, tolerance: float
) -> bytes:
    """The verified, refittable `plan` with the weights of `model`.

    `expected` is what `model` gives for the inputs `golden` elsewhere (ONNX Runtime). Raises BackdropError when the
    refit fails, is incomplete, or gives something else.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    engine: Any = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None or not engine.refittable:
        raise BackdropError(f"The plan of {name} cannot be refitted.", REMEDY)
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    taken = (
        parser.refit_from_bytes(model.graph)
        if model.folder is None
        else parser.refit_from_file(str(model.folder / model.name))
    )
    missing = list(refitter.get_missing_weights())
    if not taken or missing:
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        lost = f"weights without a value: {', '.join(missing)}" if missing else reasons
        raise BackdropError(f"The plan of {name} was not refitted: {lost}.", REMEDY)
    if not refitter.refit_cuda_engine():
        raise BackdropError(f"TensorRT {trt.__version__} could not refit the plan of {name}.", REMEDY)
    refitted = bytes(engine.serialize())
    graph = TrtGraph(name, refitted)
    error = relative_l2(graph(golden), expected)
    graph.close()
    if not error <= tolerance:
        raise BackdropError(
            f"The refitted plan of {name} is off by {error:.2g} on golden inputs (allowed: {tolerance:.2g}).", REMEDY
        )
    return refitted
