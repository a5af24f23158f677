"""Tokens and the kubeconfig files that name them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import yaml


class Tokens:
    """One token is valid at a time; it lies in a file beside each kubeconfig, as a projected one lies in a pod."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url, self._namespace = url, namespace
        self._numbers = itertools.count(1)
        self._files: list[Path] = []
        self._token = self._new()

    def _new(self) -> str:
        return f"test-token-{next(self._numbers)}"

    def valid(self, token: str) -> bool:
        return token == self._token

    def expire(self) -> None:
        self._token = self._new()
        for file in self._files:
            _replace(file, self._token)

    def kubeconfig(self, path: Path, url: str) -> Path:
        file = path.with_name(path.name + ".token")
        self._files.append(file)
        _replace(file, self._token)
        context = {"cluster": "test", "user": "test", "namespace": self._namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {"tokenFile": str(file)}}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path


def _replace(file: Path, text: str) -> None:
    """In one step: a reader never finds half a token."""
    new = file.with_name(file.name + ".new")
    new.write_text(text)
    os.replace(new, file)
