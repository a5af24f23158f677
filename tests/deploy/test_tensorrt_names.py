"""Every name that is used of TensorRT, against the bindings of both releases."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploy.engines.model import OnnxModel
from deploy.engines.tensorrt import refit as refitting
from deploy.engines.tensorrt.build import BuildOptions, build
from deploy.engines.tensorrt.runtime import TrtGraph
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.settings import REPOSITORY
from tests.deploy.trt_recorder import GOLDEN, PROFILE, RANGES, builder, graph, refitter, runner, zeros

WHEELS = ("10.16.1.11", "11.4.0.106")


@pytest.fixture(scope="module")
def bindings() -> dict[str, bytes]:
    """Release → the bytes of its bindings, from PyPI, kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "backdrop" / "tensorrt-bindings"
    found = {}
    for release in WHEELS:
        wheels = list(cache.glob(f"tensorrt_cu12_bindings-{release}-*.whl"))
        if not wheels:
            wanted = f"tensorrt-cu12-bindings=={release}"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
            options = ["--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--only-binary=:all:"]
            done = subprocess.run(
                [*command, *options, "--dest", str(cache), wanted], capture_output=True, text=True, timeout=120
            )
            if done.returncode:
                pytest.skip(f"PyPI gave no {wanted}: {done.stderr.strip().splitlines()[-1:]}")
            wheels = list(cache.glob(f"tensorrt_cu12_bindings-{release}-*.whl"))
        with zipfile.ZipFile(wheels[0]) as wheel:
            found[release] = wheel.read("tensorrt_bindings/tensorrt.so")
    return found


def named_in_source() -> set[str]:
    """Every attribute that the code reads of `trt`, also in branches that no test takes."""
    names: set[str] = set()
    for path in (REPOSITORY / "deploy" / "engines" / "tensorrt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                chain, inner = [node.attr], node.value
                while isinstance(inner, ast.Attribute):
                    chain.append(inner.attr)
                    inner = inner.value
                if isinstance(inner, ast.Name) and inner.id == "trt":
                    names.update(chain)
    return names


def named_when_used(installed: Any, folder: Path) -> set[str]:
    """Every name that a build, a refusal, a run over two profiles and a refit use."""
    pinned = BuildOptions(refittable=True, timing_cache=sha256_bytes(b"measured"))
    beside = OnnxModel("g.onnx", graph().graph, folder)
    recorders = [installed(builder(["x"]))]
    for model in (graph(), beside):
        build(model, [PROFILE], pinned, b"measured")
    recorders.append(installed(builder(["x"], parse=lambda graph: False, num_errors=1, get_error=lambda index: "")))
    with pytest.raises(BackdropError):
        build(graph(), [PROFILE], BuildOptions())
    recorders.append(installed(runner(RANGES, "y", (2, 8))))
    plan = TrtGraph("trunk", b"plan")
    for width in (4, 8):
        plan({"x": zeros(2, width), "t": zeros(2)})
    plan.close()
    recorders.append(installed(refitter()))
    for model in (graph(), beside):
        refitting.refit("trunk", b"plan", model, GOLDEN, zeros(2, 8), 1e-3)
    recorders.append(installed(refitter(refit_from_bytes=lambda graph: False)))
    with pytest.raises(BackdropError):
        refitting.refit("trunk", b"plan", graph(), GOLDEN, zeros(2, 8), 1e-3)
    return {name for recorder in recorders for name in recorder.names}


def test_both_releases_have_every_name_that_is_used(bindings: dict[str, bytes], installed: Any, tmp_path: Path) -> None:
    used = named_when_used(installed, tmp_path) | named_in_source()
    names = (used | {"NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"}) - {"__version__"}
    assert {"STRONGLY_TYPED", "TF32", "clear_flag", "execute_async_v3", "create_execution_context"} <= names
    assert {"get_missing_weights", "refit_from_file", "get_tensor_profile_shape", "get_error"} <= names
    for release, data in bindings.items():
        # A name ends with a zero byte; it may begin inside a longer one, for linkers merge equal endings.
        missing = sorted(name for name in names if name.encode() + b"\0" not in data)
        assert not missing, f"TensorRT {release} has no {', '.join(missing)}"
    # The check can fail: what weak typing needed is gone from 11.
    assert b"FP16\0" in bindings[WHEELS[0]]
    assert b"FP16\0" not in bindings[WHEELS[1]]
