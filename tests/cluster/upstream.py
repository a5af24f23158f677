"""Where a proxy leads: an address, or what a kubeconfig says of a server and its user."""

from __future__ import annotations

import base64
import http.client
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class Upstream:
    """An API server. Of a kubeconfig the current context counts; its client certificate is presented by the proxy,
    as it cannot pass through one; a token can, and stays the client's."""

    def __init__(self, place: str | Path) -> None:
        self.url = str(place)
        self._context: ssl.SSLContext | None = None
        self._user: dict[str, Any] = {}
        self._namespace: dict[str, str] = {}
        if "://" not in self.url:
            self._read(Path(place))

    def connect(self) -> http.client.HTTPConnection:
        url = urlsplit(self.url)
        assert url.hostname is not None
        if url.scheme == "https":
            return http.client.HTTPSConnection(url.hostname, url.port, context=self._context)
        return http.client.HTTPConnection(url.hostname, url.port)

    @property
    def prefix(self) -> str:
        """What the server's address has before every path."""
        return urlsplit(self.url).path.rstrip("/")

    def kubeconfig(self, url: str) -> dict[str, Any]:
        """A kubeconfig for this server's user by way of another address."""
        context = {"cluster": "proxied", "user": "user"} | self._namespace
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxied", "cluster": {"server": url}}],
            "users": [{"name": "user", "user": self._user}],
            "contexts": [{"name": "proxied", "context": context}],
            "current-context": "proxied",
        }

    def _read(self, path: Path) -> None:
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        self.url = cluster["server"]
        if self.url.startswith("https"):
            self._context = _tls(cluster, user, path)
        self._user = {k: v for k, v in user.items() if not k.startswith("client-")}
        if "tokenFile" in self._user:
            self._user["tokenFile"] = str(path.parent / self._user["tokenFile"])
        self._namespace = {"namespace": context["namespace"]} if "namespace" in context else {}


def _tls(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> ssl.SSLContext:
    with tempfile.TemporaryDirectory() as folder:
        context = ssl.create_default_context(cafile=_material(cluster, "certificate-authority", path, folder))
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = _material(user, "client-certificate", path, folder)
        if certificate is not None:
            context.load_cert_chain(certificate, _material(user, "client-key", path, folder))
    return context


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(e for e in entries if e["name"] == name)


def _material(entry: dict[str, Any], name: str, config: Path, folder: str) -> str | None:
    """The path of a certificate or key, which a kubeconfig names, or carries: then it is written into the folder."""
    if f"{name}-data" in entry:
        carried = Path(folder) / name
        carried.write_bytes(base64.b64decode(entry[f"{name}-data"]))
        return str(carried)
    return str(config.parent / entry[name]) if name in entry else None
