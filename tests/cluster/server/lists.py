"""Lists, whole or page by page; the pages of one list all show the moment of its first."""

from __future__ import annotations

import base64
import itertools
import json

from tests.cluster.server import errors
from tests.cluster.server.objects import Store
from tests.cluster.server.resources import Resource
from tests.cluster.server.selectors import Selector

_MOST_SNAPSHOTS = 50


class Lists:
    """Answers lists as JSON."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._snapshots: dict[int, tuple[int, list[bytes]]] = {}  # what is left after a page, and its version
        self._numbers = itertools.count(1)

    def read(self, resource: Resource, namespace: str, selector: Selector, query: dict[str, str]) -> bytes:
        limit = int(query.get("limit") or 0)
        with self._store.lock:
            if query.get("continue"):
                version, items = self._left(query["continue"])
            else:
                version = self._store.version
                wanted = query.get("resourceVersion", "")
                if (
                    wanted.isdigit()
                    and int(wanted) < self._store.compacted
                    and query.get("resourceVersionMatch") == "Exact"
                ):
                    raise errors.expired(f"The provided resource version is too old: {wanted}")
                found = self._store.select(resource, namespace, selector.pairs)
                items = [s.json() for s in found if selector.matches(s.data)]
            meta: dict[str, object] = {"resourceVersion": str(version)}
            if limit and len(items) > limit:
                number = next(self._numbers)
                self._snapshots[number] = (version, items[limit:])
                if len(self._snapshots) > _MOST_SNAPSHOTS:
                    del self._snapshots[next(iter(self._snapshots))]
                meta["continue"] = base64.urlsafe_b64encode(json.dumps({"v": version, "n": number}).encode()).decode()
                meta["remainingItemCount"] = len(items) - limit
                items = items[:limit]
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
        return json.dumps(head)[:-1].encode() + b',"items":[' + b",".join(items) + b"]}"

    def _left(self, token: str) -> tuple[int, list[bytes]]:
        try:
            number = json.loads(base64.urlsafe_b64decode(token))["n"]
        except (ValueError, KeyError):
            raise errors.bad_request("continue key is not valid") from None
        found = self._snapshots.get(number)
        if found is None or found[0] < self._store.compacted:
            raise errors.expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter."
            )
        return found
