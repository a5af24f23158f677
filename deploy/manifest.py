"""What may be loaded: a bundle that a trusted key signed and that the catalog knows, checked before anything is read.

An engine is executable code. Its id is its manifest's hash, and the manifest holds every file's: a changed file or
manifest never opens. That does not help where both were replaced and somebody hands out the new id, nor against an
older engine under a newer one's name; the signature and the catalog's row do. Importable without torch.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from deploy.signing import Signer, verify
from infra.bundles import Bundle, manifest_key, open_bundle
from infra.errors import BackdropError
from infra.files import sha256_bytes
from infra.object_store import ObjectMissing, ObjectStore

PURPOSE = "manifest"
SCHEMA = 3
"""The form of an engine's manifest and graphs: since 3 a negative text has a length of its own."""
ENGINE, PLAN = "engine", "plan"
"""Kinds of bundles that are signed."""
PLAN_ASSET = "tensorrt_plan"
"""The asset that the catalog's row of a plan names; its data version is the plan's cache key."""


class CatalogRow(BaseModel):
    """What the catalog says of one bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asset: str
    data_version: str
    dataset_version: str


class Trust(BaseModel):
    """Whose signatures count, and what the catalog knows: bundle id → row. Part of a job's spec, as jobs reach no
    catalog."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[str, ...] = ()
    rows: dict[str, CatalogRow] = {}


def signature_key(identity: str) -> str:
    """Where the signature of the bundle with this id lies: beside its manifest."""
    return manifest_key(identity).removesuffix(".json") + ".signature.json"


def sign_bundle(store: ObjectStore, identity: str, signer: Signer) -> None:
    """Sign the bundle's manifest. Raises BackdropError for one that is not what was written."""
    open_bundle(store, identity)
    store.put(signature_key(identity), signer.sign(PURPOSE, store.get(manifest_key(identity))))


def open_verified(store: ObjectStore, identity: str, kind: str, trust: Trust) -> Bundle:
    """The bundle, after its signature and its row in the catalog were checked; its files are when they are read.

    Raises BackdropError: of another kind, changed, not signed, signed by a stranger, unknown to the catalog, or made
    from other data than the catalog says.
    """
    what = f"The {kind} {identity[:12]}…"
    bundle = open_bundle(store, identity)
    if bundle.kind != kind:
        raise BackdropError(
            f"Bundle {identity[:12]}… holds a {bundle.kind}, not an {kind}.",
            "Give the id that tensorrt_engine reported.",
        )
    try:
        signature = store.get(signature_key(identity))
    except ObjectMissing:
        raise BackdropError(
            f"{what} is not signed.",
            "Materialise tensorrt_engine, which signs what it made; a champion of an earlier release is replaced by "
            "hand: `backdrop promote`.",
        ) from None
    manifest = store.get(manifest_key(identity))
    if sha256_bytes(manifest) != identity:  # it was read twice
        raise BackdropError(f"The manifest of {what} changed while it was read.", "Find out who writes there.")
    verify(PURPOSE, manifest, signature, trust.keys, what)
    agree(bundle, trust.rows.get(identity), what)
    return bundle


def check_schema(bundle: Bundle) -> None:
    """Raises BackdropError for an engine that another release of this code made in another form."""
    schema = bundle.meta.get("schema")
    if schema != SCHEMA:
        raise BackdropError(
            f"The engine {bundle.id[:12]}… is of schema {schema}, this release opens schema {SCHEMA}.",
            "Materialise tensorrt_engine again, which makes a new version of it, and `backdrop promote` that.",
        )


def agree(bundle: Bundle, row: CatalogRow | None, what: str) -> None:
    """Raises BackdropError unless the catalog's row says of the bundle what its manifest says."""
    if row is None:
        raise BackdropError(
            f"{what} is unknown to the catalog.", "Load what the catalog records, or materialise tensorrt_engine again."
        )
    says = bundle.meta.get("catalog", {})
    agree = {
        "asset": says.get("asset") == row.asset,
        # A folder is named by the first digits of a data version, which is all that a job knows of it.
        "data_version": bool(says.get("data_version")) and row.data_version.startswith(says["data_version"]),
        "dataset_version": says.get("dataset_version") == row.dataset_version,
    }
    differ = [
        f"{name} is {getattr(row, name)!r} there, {says.get(name)!r} here" for name, same in agree.items() if not same
    ]
    if differ:
        raise BackdropError(
            f"{what} is not what the catalog records: {'; '.join(differ)}.",
            "Do not load it: find out which of the two was changed.",
        )
