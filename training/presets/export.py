"""The settings of the engine's build."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from training.presets.section import Section


class TensorRTSection(Section):
    """How plans are built; all of it is part of their cache key."""

    optimisation_level: int = Field(3, ge=0, le=5)
    workspace_bytes: int = Field(8 << 30, ge=1)
    hardware_compatibility: Literal["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"] = "NONE"
    refittable: bool = False
    timing_cache: str | None = Field(None, description="SHA-256 of a kept timing cache to pin; None: measure anew")
    fused_attention: bool = Field(True, description="refuse a plan in half precision whose attention is not fused")


class ExportSection(Section):
    """The engine's build."""

    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    islands: tuple[str, ...] = Field(("ScalarEmbedder",), description="modules that stay float32, beside all angles")
    opset: int = 18
    threads: int = Field(0, ge=0, description="0: all cores")
    tolerance: float | None = Field(None, gt=0, description="largest relative L2 of an output; None: the precision's")
    node_tolerance: float | None = Field(None, gt=0, description="the same of a node inside")
    text_length: int = Field(32, ge=4, le=255, description="text tokens kept per caption; as many as the latents keep")
    steps: int = Field(4, ge=1, description="forwards per picture when latency is measured")
    latency_runs: int = Field(12, ge=1)
    batch_sizes: tuple[PositiveInt, ...] = Field((1, 4), min_length=1, description="batches whose latency is measured")
    batch: int = Field(4, ge=1, description="pictures at once that a TensorRT plan takes, at most")
    tensorrt: TensorRTSection = TensorRTSection()

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if max(self.batch_sizes) > self.batch:
            raise ValueError(
                f"batch_sizes has {max(self.batch_sizes)}, more pictures than batch ({self.batch}) lets an engine take"
            )
        return self
