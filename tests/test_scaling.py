"""docs/scaling.md says what its programs print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from tests.documented import output_of


def programs() -> tuple[str, list[str]]:
    """(the page, its programs in order): counted operations, the arithmetic, the measurement."""
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    return page, re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_plan_for_scaling_says_what_its_programs_print(number: int) -> None:
    page, found = programs()
    printed = output_of([sys.executable, "-"], REPOSITORY, found[number]).splitlines()
    assert len(printed) >= 3
    assert [line for line in printed if line not in page] == []


@pytest.mark.integration
def test_the_measurement_of_the_plan_for_scaling_runs(tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text(programs()[1][2])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "BENCH_IMAGES": "12"}
    command = [sys.executable, "measure.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[\d.]+ pictures a second and core, \d+ of 12 kept", done.stdout)
    assert re.search(r"[\d,]+ bytes of the catalog and [\d.]+ verdicts per picture", done.stdout)
