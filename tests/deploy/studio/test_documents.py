"""What docs/studio.md tells people to type is typed here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.images import decode, encode_jpeg
from infra.settings import REPOSITORY
from tests.deploy.studio.conftest import Playing
from tests.deploy.studio.pictures import photograph, png_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


def test_every_curl_of_the_page_works(playing: Playing, tmp_path: Path) -> None:
    image, product = photograph()
    (tmp_path / "mug.jpg").write_bytes(encode_jpeg(image))
    (tmp_path / "spot.png").write_bytes(png_of(product))
    lines = re.findall(r"^curl .*$", (REPOSITORY / "docs" / "studio.md").read_text(), re.MULTILINE)
    assert len(lines) == 8
    answered = ""
    for line in lines:
        words = shlex.split(line.replace("$at", playing.studio.url), comments=True)
        if "<id>" in line:
            found = re.search(r"/v1/pictures/([^\"]+)\.png", answered)
            assert found is not None
            words = [word.replace("<id>", found[1]) for word in words]
        done = subprocess.run([*words, "--fail", "--silent"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        answered = done.stdout if "/v1/pictures/" in done.stdout and ".png" in done.stdout else answered
    assert decode((tmp_path / "mask.png").read_bytes()).shape == image.shape
    assert len(list(tmp_path.glob("*.png"))) == 3
