"""The HTTP front: a request becomes a verb on the registry, and what it answers becomes JSON."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from tests.cluster.server import errors
from tests.cluster.server.discovery import discover
from tests.cluster.server.errors import ApiError
from tests.cluster.server.lists import Lists
from tests.cluster.server.objects import Object
from tests.cluster.server.registry import DeleteOptions, WriteOptions
from tests.cluster.server.resources import PODS, RESOURCES, Resource
from tests.cluster.server.selectors import parse_selector
from tests.cluster.server.watching import Watches, WatchRequest

_log = logging.getLogger(__name__)

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Backend(Protocol):
    """What the front needs of the cluster behind it."""

    registry: Any
    watches: Watches
    lists: Lists
    authorizer: Any
    pods: Any  # PodParts: logs and evictions
    kueue: Any

    def authenticate(self, token: str) -> bool: ...

    def note(self, method: str, path: str, agent: str) -> None: ...


class Route:
    """What a path names: a resource, and perhaps a namespace, an object and a part of it."""

    def __init__(self, path: str) -> None:
        parts = [p for p in path.split("/") if p]
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        self.namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
            self.namespace, rest = rest[1], rest[2:]
        found = RESOURCES.get((group, version, rest[0]))
        if found is None or len(rest) > 3:
            raise errors.no_such_path()
        self.resource: Resource = found
        self.name = rest[1] if len(rest) > 1 else ""
        self.part = rest[2] if len(rest) > 2 else ""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Front

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query, keep_blank_values=True))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        backend = self.server.backend
        backend.note(self.command, url.path, self.headers.get("User-Agent", ""))
        try:
            known = discover(url.path) if self.command == "GET" else None
            if isinstance(known, str):
                self._answer(200, known.encode(), "text/plain")
                return
            if url.path != "/version" and not backend.authenticate(self._token()):
                raise errors.unauthorized()
            if known is not None:
                self._json(200, known)
            else:
                self._dispatch(backend, url.path)
        except ApiError as error:
            self._json(error.code, error.status())
        except ConnectionError:
            self.close_connection = True
        except Exception:
            _log.exception("the API server of the test cluster failed at %s %s", self.command, self.path)
            fault = errors.ApiError(500, "InternalError", "Internal error occurred: a fault of the test cluster")
            self._json(fault.code, fault.status())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _dispatch(self, backend: Backend, path: str) -> None:
        if path.endswith("/selfsubjectaccessreviews"):
            review = self._parsed()
            self._json(201, review | {"status": backend.authorizer.review(review.get("spec", {}))})
            return
        if "/visibility.kueue.x-k8s.io/" in path and path.endswith("/pendingworkloads"):
            parts = path.split("/")
            items = backend.kueue.pending(parts[5], parts[7])
            self._json(200, {"kind": "PendingWorkloadsSummary", "apiVersion": f"{parts[2]}/{parts[3]}", "items": items})
            return
        try:
            route = Route(path)
        except IndexError:
            raise errors.no_such_path() from None
        verb = _VERBS.get(self.command) or ("get" if route.name else "list")
        if verb == "list" and self._flag("watch"):
            verb = "watch"
        if verb == "delete" and not route.name:
            verb = "deletecollection"
        backend.authorizer.check(route.resource, route.namespace, route.name, route.part, verb)
        if route.part and route.part != "status":
            self._part(backend, route, verb)
        elif verb == "watch":
            self._watch(backend, route)
        else:
            self._verb(backend, route, verb)

    def _verb(self, backend: Backend, route: Route, verb: str) -> None:
        registry, resource = backend.registry, route.resource
        options = WriteOptions(self.query.get("fieldValidation", "Warn"), "dryRun" in self.query)
        if verb == "get":
            self._json(200, registry.store.get(resource, route.key))
        elif verb == "list":
            self._answer(200, backend.lists.read(resource, route.namespace, self._selector(route), self.query))
        elif verb == "create":
            if route.name:
                raise errors.bad_method()
            created, warnings = registry.create(resource, route.namespace, self._parsed(), options)
            self._json(201, created, warnings)
        elif verb == "update":
            self._json(200, *registry.update(resource, route.key, self._parsed(), options, part=route.part))
        elif verb == "patch":
            kind = self.headers.get("Content-Type", "").partition(";")[0]
            patched = registry.patch(resource, route.key, kind, self._parsed(), options, part=route.part)
            self._json(200, *patched)
        elif verb == "delete":
            self._json(200, registry.delete(resource, route.key, self._delete_options()))
        else:
            self._delete_collection(backend, route)

    def _delete_collection(self, backend: Backend, route: Route) -> None:
        selector, options = self._selector(route), self._delete_options()
        with backend.registry.store.lock:
            found = backend.registry.store.select(route.resource, route.namespace, selector.pairs)
            gone = [s.data for s in found if selector.matches(s.data)]
            for data in gone:
                key = (data["metadata"].get("namespace", ""), data["metadata"]["name"])
                backend.registry.delete(route.resource, key, options)
        kind = {"kind": f"{route.resource.kind}List", "apiVersion": route.resource.api_version}
        self._json(200, kind | {"metadata": {"resourceVersion": str(backend.registry.store.version)}, "items": gone})

    def _part(self, backend: Backend, route: Route, verb: str) -> None:
        if route.resource == PODS and route.part == "log" and verb == "get":
            self._stream("text/plain", backend.pods.log(route.key, self.query))
        elif route.resource == PODS and route.part == "eviction" and verb == "create":
            backend.pods.evict_by_api(route.key, self._parsed().get("deleteOptions") or {})
            self._json(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
        else:
            raise errors.no_such_path()

    def _watch(self, backend: Backend, route: Route) -> None:
        selector = self._selector(route)
        if route.name:
            selector.tests.append(lambda data: data["metadata"]["name"] == route.name)
        version = self.query.get("resourceVersion", "")
        if version and not version.isdigit():
            raise errors.bad_request(f'Invalid value: "{version}": resourceVersion must be a number')
        request = WatchRequest(
            route.resource,
            route.namespace,
            selector,
            version,
            self._flag("allowWatchBookmarks"),
            self._flag("sendInitialEvents"),
            float(self.query.get("timeoutSeconds") or 1800),
        )
        self._stream("application/json", backend.watches.lines(request))

    # ---- the request's parts
    def _flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "1")

    def _selector(self, route: Route) -> Any:
        query = self.query
        return parse_selector(route.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))

    def _parsed(self) -> Any:
        if not self.body:
            return {}
        try:
            if "yaml" in self.headers.get("Content-Type", "") and "patch" not in self.headers["Content-Type"]:
                import yaml

                return yaml.safe_load(self.body)
            return json.loads(self.body)
        except ValueError as error:
            raise errors.bad_request(f"the object provided is unrecognized: {error}") from None

    def _delete_options(self) -> DeleteOptions:
        body: Object = self._parsed()
        merged = {k: self.query[k] for k in ("propagationPolicy", "gracePeriodSeconds") if k in self.query} | body
        grace = merged.get("gracePeriodSeconds")
        if merged.get("orphanDependents") is not None and not merged.get("propagationPolicy"):
            merged["propagationPolicy"] = "Orphan" if merged["orphanDependents"] else "Background"
        propagation = merged.get("propagationPolicy")
        if propagation not in (None, "", "Background", "Foreground", "Orphan"):
            raise errors.bad_request(f'invalid DeleteOptions: propagationPolicy: Unsupported value: "{propagation}"')
        dry = "dryRun" in self.query or bool(body.get("dryRun"))
        return DeleteOptions(
            propagation or None, None if grace is None else int(grace), body.get("preconditions") or {}, dry
        )

    # ---- the answer
    def _json(self, code: int, data: Any, warnings: list[str] | None = None) -> None:
        self._answer(code, json.dumps(data, separators=(",", ":")).encode(), warnings=warnings)

    def _answer(
        self, code: int, body: bytes, kind: str = "application/json", warnings: list[str] | None = None
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for text in warnings or []:
            self.send_header("Warning", "299 - " + json.dumps(text))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, kind: str, chunks: Iterator[bytes]) -> None:
        first = next(chunks, None)  # an error of its beginning is still an answer of its own
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        while first is not None:
            if first:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(first), first))
                self.wfile.flush()
            first = next(chunks, None)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        return


class Front(ThreadingHTTPServer):
    """The server on a free local port."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, backend: Backend) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.backend = backend
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), name="api", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to tell; a fault of this server is."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
