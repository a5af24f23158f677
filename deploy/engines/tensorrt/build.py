"""Compiling an ONNX file into a plan, strongly typed: formats are those that the file states."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploy.engines.model import OnnxModel
from deploy.engines.tensorrt.layers import LayerSummary, expected_fusions, summarise
from deploy.engines.tensorrt.profiles import Profile
from infra.errors import BackdropError
from infra.files import sha256_bytes

log = logging.getLogger(__name__)

REMEDY = "Use the backend onnxruntime."


@dataclass(frozen=True)
class BuildOptions:
    """What TensorRT is told beside graph and profiles; part of a plan's cache key."""

    optimisation_level: int = 3
    workspace_bytes: int = 8 << 30
    hardware_compatibility: str = "NONE"  # a name of trt.HardwareCompatibilityLevel
    refittable: bool = False
    timing_cache: str | None = None  # sha256 of a cache that is pinned: the build may not add to it
    fused_attention: bool = True  # refuse a plan in half precision whose attention is not fused

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Built:
    """A plan and how it came about."""

    plan: bytes
    timing_cache: bytes
    layers: LayerSummary
    device_bytes: int
    seconds: float


def build(model: OnnxModel, profiles: Sequence[Profile], options: BuildOptions, timing_cache: bytes = b"") -> Built:
    """Compile one graph for this machine's GPU. Minutes.

    `timing_cache` holds what was measured before; one that is pinned must have the hash that the options name, and
    still have it afterwards. Raises BackdropError with the parser's own words for a graph that TensorRT cannot take,
    for a timing cache that is not the pinned one or did not suffice, and for attention that was not fused.
    """
    import tensorrt as trt

    if options.timing_cache is not None and sha256_bytes(timing_cache) != options.timing_cache:
        raise BackdropError(
            f"The timing cache has SHA-256 {sha256_bytes(timing_cache)[:12]}…, pinned is {options.timing_cache[:12]}….",
            "Restore the pinned one, or take the pin out of the export section.",
        )
    started = time.monotonic()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Required on TensorRT 10, always on (and harmless to ask for) on 11.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = (
        parser.parse(model.graph) if model.folder is None else parser.parse_from_file(str(model.folder / model.name))
    )
    if not parsed:
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BackdropError(f"TensorRT {trt.__version__} does not take {model.name}: {reasons}", REMEDY)
    config = _config(trt, builder, options)
    cache = config.create_timing_cache(timing_cache)
    if not config.set_timing_cache(cache, False):
        raise BackdropError(
            "The timing cache is of another GPU or release of TensorRT.", "Take the pin out of the export section."
        )
    dimensions = dimensions_of(model.graph)
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            entry = network.get_input(index).name
            shapes.set_shape(entry, *profile.shapes(dimensions[entry]))
        config.add_optimization_profile(shapes)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise BackdropError(f"TensorRT {trt.__version__} could not build {model.name}.", REMEDY)
    plan, after = bytes(serialized), bytes(config.get_timing_cache().serialize())
    if options.timing_cache is not None and sha256_bytes(after) != options.timing_cache:
        # ERROR_ON_TIMING_CACHE_MISS lets some misses pass; a cache that changed does not lie.
        raise BackdropError(
            f"The pinned timing cache did not suffice for {model.name}: the build measured anew.",
            "Pin the cache of a build with this release, these profiles and this GPU.",
        )
    layers, device_bytes = _inspect(trt, logger, plan)
    wanted = expected_fusions(model.graph) if options.fused_attention else 0
    if layers.fused_attention < wanted:
        raise BackdropError(
            f"Of {wanted} attentions in {model.name} TensorRT fused {layers.fused_attention}: it would be several times"
            " slower than it should.",
            "Keep float32 islands out of the attention, or set fused_attention to false in the export section.",
        )
    seconds = time.monotonic() - started
    log.info("built a plan from %s: %.1f MB in %.0f s", model.name, len(plan) / 1e6, seconds)
    return Built(plan, after, layers, device_bytes, seconds)


def _config(trt: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimisation_level
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On unless cleared. It leaves ten bits of float32's mantissa: what stays float32 stays so for a reason.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.timing_cache is not None:
        config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
    return config


def _inspect(trt: Any, logger: Any, plan: bytes) -> tuple[LayerSummary, int]:
    """What the plan consists of, and the device memory that it needs. It was built in this process a moment ago."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise BackdropError("TensorRT refuses the plan that it has just built.", REMEDY)
    inspector = engine.create_engine_inspector()
    said = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return summarise(json.loads(said)), int(engine.device_memory_size_v2)


def dimensions_of(graph: bytes) -> dict[str, list[int | str]]:
    """Input name → its dimensions as the ONNX file states them; TensorRT itself only says -1."""
    import onnx

    inputs = onnx.load_model_from_string(graph).graph.input
    return {entry.name: [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in inputs}
