"""A takedown killed at any step and run again does the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from infra.settings import REPOSITORY
from infra.shards import FILTERED_COLUMNS, write_slice
from tests.assets.workshop import DELIVERY, Workshop, image_id, sample, traces_of
from training.latent_slices import find_latents

_KILLED = """
import os, signal, sys
from pathlib import Path
from infra.object_store import DirectoryStore, ObjectStore
from infra.catalog import Catalog
from assets.curation.takedown import Takedown
import infra.object_store as module

left = int(sys.argv[4])

def counted(function):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return call

class Killing(DirectoryStore):
    put, put_file = counted(DirectoryStore.put), counted(DirectoryStore.put_file)
    delete = counted(DirectoryStore.delete)

class Dying(Catalog):
    replace_slice, forget_images = counted(Catalog.replace_slice), counted(Catalog.forget_images)
    forget_shown = counted(Catalog.forget_shown)

catalog = Dying(sys.argv[2])
ids = sys.argv[3].split(",")
order = catalog.order_takedown("target", "asked to", ids)
Takedown(Killing(Path(sys.argv[1]) / "store"), catalog, Path(sys.argv[1]) / "state", order, ids).run()
print("done")
"""


@pytest.mark.integration
def test_killed_at_any_step_and_run_again(workshop: Workshop) -> None:
    ids = ",".join(image_id(number) for number in (3, 7, 11))
    command = [sys.executable, "-c", _KILLED, str(workshop.folder), workshop.catalog.url, ids]
    killed = 0
    for step in (0, 2, 5, 6, 7, 9, 12, 14, 16, 19, 22, 200):
        done = subprocess.run([*command, str(step)], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
    assert killed >= 4
    for number in (3, 7, 11):
        assert traces_of(workshop.store.folder, number) == traces_of(workshop.state, number) == []
    pieces = [
        write_slice(workshop.store, "filtered", FILTERED_COLUMNS, map(sample, some), {"delivery": DELIVERY})
        for some in ([0, 1, 2, 4, 5], [6, 8, 9])
    ]
    assert {piece.id for piece in workshop.slices()} == {piece.id for piece in pieces}
    for piece in pieces:
        assert find_latents(workshop.store, {"source": piece.id, "autoencoder": "a"}) is not None
    assert os.listdir(workshop.state) == ["jobs"]
