"""A catalog and a store of files with everything in them that may hold a delivered image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from assets.curation.takedown import Report, Takedown
from infra.catalog import Catalog, SightingRow, models
from infra.files import sha256_bytes
from infra.images import encode_jpeg, encode_png
from infra.jobs.folder import BROKEN_BATCH
from infra.object_store import DirectoryStore
from infra.shards import FILTERED_COLUMNS, DatasetVersion, Slice, make_version, shard_places, write_slice
from tests.infra.picture_files import segment
from training.latent_slices import EXAMPLES, latent_key, record_latents

DELIVERY = "spring"
LATENT_COLUMNS = {"id": "str", "latent": "ndarray:float16:2,2"}


def photograph(number: int) -> bytes:
    """A JPEG that no other number gives, in noise that survives compression."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return encode_jpeg(np.kron(coarse, np.ones((8, 8, 1), np.uint8)), 92)


def with_exif(number: int) -> bytes:
    """The photograph as a camera writes it: kept without metadata, it has another hash than the file."""
    data = photograph(number)
    return data[:2] + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0") + data[2:]


def sample(number: int) -> dict[str, Any]:
    data = photograph(number)
    return {
        "id": sha256_bytes(data),
        "image": data,
        "mask": b"",
        "captions": [f"picture {number}"],
        "attributes": {},
        "width": 64,
        "height": 64,
        "source": "shop",
    }


def image_id(number: int) -> str:
    return sha256_bytes(photograph(number))


@dataclass
class Workshop:
    """Two slices of one delivery (0–5 and 6–9), their latents, a dataset version, a model, and all kinds of copies."""

    folder: Path
    catalog: Catalog

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.folder / "store")

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def slices(self) -> list[Slice]:
        return self.catalog.slices(delivery=DELIVERY)

    def version(self) -> DatasetVersion:
        version = make_version(self.store, self.slices())
        self.catalog.add_dataset_version(version)
        return version

    def fill(self) -> None:
        sources = self.folder / "theirs"
        sources.mkdir()
        rows = []
        for number in range(12):
            path = sources / f"{number:02}.jpg"
            path.write_bytes(photograph(number))
            rows.append(SightingRow(uri=path.as_uri(), etag="1", licence="CC0", source="shop"))
        own = self.store.folder / "deliveries" / "sample-1" / "images" / "3.jpg"
        own.parent.mkdir(parents=True)
        own.write_bytes(photograph(3))
        rows.append(SightingRow(uri=own.as_uri(), etag="1", licence="CC0", source="sample catalogue"))
        self.catalog.add_delivery(DELIVERY, sources.as_uri(), "pictures")
        self.catalog.ingest(DELIVERY, rows)
        self.scan()
        self.pack([list(range(6)), list(range(6, 10))])
        version = self.version()
        self.catalog.record_model("b" * 64, "pretrained_dit", "v", version.version)
        self.examples(version)
        self.copies()

    def scan(self) -> None:
        """What the scan and the decision leave, written straight into the tables: they are what a takedown reads."""
        from sqlalchemy.orm import Session

        self.store.put(f"quarantine/{DELIVERY}/{image_id(11)}", photograph(11))
        self.store.put(f"masks/grabcut@1/{image_id(3)}.png", encode_png(np.zeros((64, 64), np.uint8)))
        with Session(self.catalog.engine) as session, session.begin():
            for row in session.scalars(select(models.Sighting)).all():
                number = int(row.uri.rsplit("/", 1)[-1].split(".")[0])
                name = row.image_id = image_id(number)
                sketch = photograph(number)[:64]
                facts = {"bytes": 9, "format": "jpeg", "width": 64, "height": 64, "phash": number, "sketch": sketch}
                session.merge(models.Image(id=name, **facts))
                verdict = {"filter": "size", "filter_version": "1", "decision": "keep", "reason": ""}
                session.add(models.Verdict(sighting=row.id, delivery=DELIVERY, image_id=name, **verdict))
                if number == 11:
                    bad = {"reason": "corrupt", "detail": "", "bytes": 9, "key": f"quarantine/{DELIVERY}/{name}"}
                    session.add(
                        models.Quarantined(sighting=row.id, delivery=DELIVERY, uri=row.uri, image_id=name, **bad)
                    )
                if number == 3:
                    kept = {"bucket": "", "split": row.split, "sighting": row.id}
                    session.merge(models.Kept(delivery=DELIVERY, image_id=name, **kept))
            mask = {"source": "grabcut@1", "confidence": 0.9, "key": f"masks/grabcut@1/{image_id(3)}.png"}
            session.add(models.Mask(image_id=image_id(3), **mask))
            session.add(models.Caption(image_id=image_id(3), source="model", text="a thing"))
            near = {"distance": 4, "residual": 3.0, "better": False}
            session.add(models.Copy(delivery=DELIVERY, image_id=image_id(10), of=image_id(3), **near))

    def pack(self, numbers: list[list[int]]) -> None:
        pieces = []
        for some in numbers:
            piece = write_slice(self.store, "filtered", FILTERED_COLUMNS, map(sample, some), {"delivery": DELIVERY})
            places = shard_places(self.store, piece)
            members = [(image_id(k), shard, place) for k, (shard, place) in zip(some, places, strict=True)]
            self.catalog.stage_slice(DELIVERY, piece, f"chunk of {len(some)}", members)
            self.latents(piece, some)
            pieces.append(piece)
        self.catalog.commit_slices(DELIVERY, pieces)

    def latents(self, piece: Slice, numbers: list[int]) -> None:
        parts = {"source": piece.id, "autoencoder": "a"}
        rows = [{"id": image_id(k), "latent": np.full((2, 2), k, np.float16)} for k in numbers]
        meta = {"split": "train", "source": piece.id}
        record_latents(self.store, parts, write_slice(self.store, latent_key(parts), LATENT_COLUMNS, rows, meta))

    def examples(self, version: DatasetVersion) -> None:
        import io

        buffer = io.BytesIO()
        np.savez(buffer, ids=np.array([image_id(3), image_id(4)]), images=np.zeros(3))
        self.store.put(f"{EXAMPLES}{version.version}.npz", buffer.getvalue())

    def copies(self) -> None:
        self.store.put(f"captions/model/{image_id(3)}.json", b"{}")
        for name, shows in {"both": [3, 4], "other": [5]}.items():
            self.store.put(f"stages/x/{name}.png", b"png")
            self.catalog.add_shown({f"stages/x/{name}.png": [image_id(k) for k in shows]})
        # What a remote store's jobs keep beside it, and what killed ones leave: a slice never recorded, half a shard,
        # half a file, a temporary folder, the batch of a step that was not finite.
        first = max(self.slices(), key=lambda piece: piece.samples)
        job = self.state / "jobs" / "pretrained_dit-1"
        places = [
            job / "save" / "cache" / first.id,
            job / "tmp" / "slice-x",
            self.store.folder / "filtered" / ("e" * 64),
        ]
        for place in places:
            place.mkdir(parents=True)
            (place / "shard.00000.mds").write_bytes(photograph(3) + photograph(8))
        (self.store.folder / "filtered" / ".writing-0").write_bytes(photograph(3))
        (job / "save" / f"{BROKEN_BATCH}pretrain-step-00000007.safetensors").write_bytes(photograph(3))
        (job / "save" / "delivery" / "images").mkdir(parents=True)
        (job / "save" / "delivery" / "images" / "3.jpg").write_bytes(photograph(3))
        write_slice(self.store, "filtered", FILTERED_COLUMNS, [sample(3), sample(8)], {"delivery": "never recorded"})

    def take_down(self, numbers: list[int]) -> Report:
        return self.carry_out("target", [image_id(number) for number in numbers])

    def carry_out(self, target: str, ids: list[str]) -> Report:
        order = self.catalog.order_takedown(target, "asked to", ids)
        report = Takedown(self.store, self.catalog, self.state, order, ids).run()
        self.catalog.finish_takedown(order.id, report.as_dict())
        return report


def traces_of(folder: Path, number: int) -> list[str]:
    """Files below a folder that hold bytes of the photograph, or its id inside a shard."""
    data, name = photograph(number), image_id(number).encode()
    start = data.index(b"\xff\xda") + 14
    probes = [data[at : at + 32] for at in np.linspace(start, len(data) - 34, 6).astype(int)]
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            held = path.read_bytes()
            if any(probe in held for probe in probes) or (path.suffix == ".mds" and name in held):
                found.append(str(path.relative_to(folder)))
    return found


@pytest.fixture
def workshop(tmp_path: Path, catalog_url: str) -> Iterator[Workshop]:
    catalog = Catalog(catalog_url)
    shop = Workshop(tmp_path, catalog)
    shop.fill()
    yield shop
    catalog.close()
