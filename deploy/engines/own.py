"""Plans that a machine built while it opened an engine: kept for its user alone, for the next time.

Who opens an engine can neither sign for the line nor write to its catalog, and need not: these plans stay below the
user's cache folder, which only this user may enter, signed with a key that lies there, too. They are verified as the
line's are. Losing the folder costs the minutes of a build.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.engines.plans import plan_key, pointer_key, read_plans, write_plans
from deploy.engines.tensorrt.build import Built
from deploy.manifest import PLAN_ASSET, CatalogRow, Trust, sign_bundle, signature_key
from deploy.signing import open_signer
from infra.bundles import manifest_key
from infra.errors import BackdropError
from infra.object_store import ObjectMissing, open_store

log = logging.getLogger(__name__)

_DATASET = "none: built where it runs"
"""Stands where a plan of the line names the dataset version of its engine."""


def own_folder() -> Path:
    """Where they lie. A container that is to keep them mounts a volume there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backdrop" / "plans"


def read_own(inputs: Mapping[str, Any], graphs: Sequence[str]) -> dict[str, bytes] | None:
    """Graph → verified plan for exactly these inputs; None where this machine has kept none, or not to its end.

    Of a folder that others may write to nothing is read: the plans are built instead. Raises BackdropError for an entry
    that must not be loaded.
    """
    folder, key = own_folder(), plan_key(inputs)
    if not folder.is_dir():
        return None
    try:
        _check_private(folder)
    except BackdropError as error:
        log.error("this machine's own plans are not used: %s", error)
        return None
    store = open_store(folder.as_uri())
    try:
        identity = str(json.loads(store.get(pointer_key(key)))["bundle"])
    except ObjectMissing:
        return None
    except (ValueError, KeyError, TypeError):
        identity = ""  # `read_plans` says what is wrong with it
    if store.exists(manifest_key(identity)) and not store.exists(signature_key(identity)):
        return None  # killed before it was signed
    row = CatalogRow(asset=PLAN_ASSET, data_version=key, dataset_version=_DATASET)
    trust = Trust(keys=(open_signer(None, folder).public,), rows={identity: row})
    return read_plans(store, inputs, trust, graphs)


def keep_own(inputs: Mapping[str, Any], built: Mapping[str, Built]) -> None:
    """Keep what was built. A folder that cannot be written to is a line in the log: the plans run all the same."""
    folder = own_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(folder)
        store = open_store(folder.as_uri())
        _, bundle = write_plans(store, inputs, built, {}, _DATASET)
        sign_bundle(store, bundle, open_signer(None, folder))
    except (OSError, BackdropError) as error:
        log.warning("the plans are not kept, so the next start builds them again: %s", error)
    else:
        log.info("the plans are kept in %s", folder)


def _check_private(folder: Path) -> None:
    """Raises BackdropError unless only this user may write to the folder."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackdropError(
            f"The folder of plans {folder} is open to others than its user.", f"Run `chmod -R go-rwx {folder}`."
        )
