"""What a result cost, with all that it came from; each job counts once."""

from pathlib import Path

from assets.costs import shown, spent, tags
from infra.files import canonical_json
from infra.object_store import DirectoryStore


def test_every_job_before_counts_once(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for name, seconds in {"autoencoder": 10, "latents": 20, "dit": 300}.items():
        store.put(f"stages/{name}/cost.json", canonical_json({"gpu_seconds": seconds, "gpu_cost": seconds / 10}))
    spent(store, "stages/autoencoder", [])
    spent(store, "stages/latents", ["stages/autoencoder", "stages/set"])
    found = spent(store, "stages/dit", ["stages/autoencoder", "stages/latents"])
    assert shown(found, "stages/dit") == {
        "gpu_seconds": 300,
        "gpu_cost": 30.0,
        "lineage_gpu_seconds": 330.0,
        "lineage_gpu_cost": 33.0,
    }
    assert tags(found) == {"backdrop.gpu_seconds": "330", "backdrop.gpu_cost": "33.0"}
    engine = spent(store, "stages/engine", ["stages/dit"])  # made on a machine whose GPUs nobody counts
    assert shown(engine, "stages/engine") == {"lineage_gpu_seconds": 330.0, "lineage_gpu_cost": 33.0}


def test_on_one_machine_nothing_is_counted_nor_written(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert spent(store, "stages/dit", ["stages/autoencoder"]) == {}
    assert shown({}, "stages/dit") == {}
    assert list(store.list("")) == []
