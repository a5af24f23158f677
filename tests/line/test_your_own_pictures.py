"""Delivered photographs in the small line.

The name puts it last: from here on, what shows photographs is on no page, and the tests of the pages look at them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.line.conftest import Ran, Workshop
from tests.line.test_small_line import made

pytestmark = [pytest.mark.line, pytest.mark.timeout(900)]


def test_own_pictures_join_the_mix(finished: tuple[Workshop, Ran], tmp_path: Path) -> None:
    workshop, _ = finished
    folder = tmp_path / "mine"
    folder.mkdir()
    picture(folder / "mug.png", seed=1)
    picture(folder / "lamp.jpg", seed=2)
    (folder / "mug.txt").write_text("a green mug on a table")
    ran = workshop.run("run", "--images", str(folder))
    assert ran.code == 0, ran.output
    assert {"raw_images", "latent_shards", "inpainting_finetune", "distilled_model"} <= made(ran)
    assert not {"autoencoder", "pretrained_dit"} & made(ran)  # two pictures are below the share at which they adopt
    assert "raw_images[mine-" in ran.output
    assert "raw_images[sample-tiny]" in ran.output


def picture(path: Path, seed: int) -> None:
    """A soft blob in front of a gradient: not from the catalogue, no mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:240, 0:320] / 240
    background = np.stack([0.3 + 0.5 * y, 0.4 + 0.2 * x, np.full_like(x, 0.6)], -1)
    blob = ((x - 0.66) ** 2 + (y - 0.5) ** 2 < 0.06)[..., None]
    pixels = np.where(blob, rng.uniform(0, 0.4, 3), background) + rng.normal(0, 0.02, background.shape)
    Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8)).save(path)
