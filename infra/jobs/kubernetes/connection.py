"""The way to an API server: who we are, how long a call may take, and the server's own words where it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kubernetes import client as k8s
from kubernetes import config as configs
from kubernetes.client.exceptions import ApiException

from infra.errors import BackdropError

CONNECT_S, READ_S = 5.0, 30.0


def connect(kubeconfig: Path | None = None) -> k8s.ApiClient:
    """A client for the user of a kubeconfig: the given one, KUBECONFIG's or the user's own; where there is none, for
    the service account of this pod. No call lasts for ever, and none is tried again here.
    """
    configuration = k8s.Configuration()
    path = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG")
    try:
        if path:
            configs.load_kube_config(path, client_configuration=configuration)
        else:
            configs.load_config(client_configuration=configuration)
    except configs.ConfigException as error:
        raise BackdropError(
            f"there is no access to a cluster: {error}", "set KUBECONFIG, or run in a pod with a service account"
        ) from error
    configuration.retries = False
    client = _Patient(configuration)
    client.user_agent = "backdrop"
    return client


class _Patient(k8s.ApiClient):
    def call_api(self, *arguments: Any, **given: Any) -> Any:
        if given.get("_request_timeout") is None:
            given["_request_timeout"] = (CONNECT_S, READ_S)
        return super().call_api(*arguments, **given)


def words(error: ApiException) -> str:
    """The server's own message."""
    return _said(error, "message") or str(error.reason)


def reason(error: ApiException) -> str:
    """The server's own name for it."""
    return _said(error, "reason")


def _said(error: ApiException, name: str) -> str:
    try:
        return str(json.loads(error.body)[name])
    except (ValueError, KeyError, TypeError):
        return ""
