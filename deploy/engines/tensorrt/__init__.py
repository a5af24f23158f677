"""The TensorRT backend: plans built on the GPU that runs them, from the same ONNX files.

`tensorrt` itself is imported only where something runs on it. One code path for TensorRT 10 and 11: strong typing,
named tensors, `execute_async_v3`; a test holds every name used here against the bindings of both. Device memory is
PyTorch's, so that no second CUDA binding is needed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

BACKEND = "tensorrt"


def available() -> str | None:
    """None where TensorRT can run; otherwise why it cannot, in words for the log."""
    if importlib.util.find_spec("tensorrt") is None:
        return "the package tensorrt is not installed"
    import torch

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


def environment() -> dict[str, Any]:
    """What a plan depends on beside its graph: it is good for this release on this kind of GPU alone."""
    import torch

    gpu = torch.cuda.get_device_properties(0)
    return {
        "tensorrt": version(),
        "cuda": torch.version.cuda,
        "gpu": gpu.name,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "memory_bytes": gpu.total_memory,
    }


def driver() -> str:
    """The driver's release, for the record: plans outlive drivers. "unknown" without nvidia-smi."""
    import subprocess

    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else "unknown"
