"""The model registry: MLflow holds names, versions and aliases; the bytes stay in the object store.

A version's source is `backdrop:///<sha256 of the bundle's manifest>`; without the third slash the id would be a host,
and MLflow refuses a source without a path. MLflow's server refuses local paths outside a
run's artifact folder, and a path would change with the machine; an id that is a hash does neither.
`deploy.artifact_repository` resolves the scheme, so `mlflow.artifacts.download_artifacts("models:/name@champion")`
works.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from infra.errors import BackdropError, ServiceError, nearest

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

SCHEME = "backdrop"
BUNDLE_TAG = "backdrop.bundle"
TAINT_TAG = "backdrop.tainted"
DESCRIPTION_LENGTH = 5000  # of a version's description in MLflow's database
TAG_LENGTH = 5000  # of a tag's value
_NUMBER = re.compile("[0-9]{1,9}")  # a longer one is no number for MLflow's database
_GONE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_SECONDS = 20  # for one request
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"

#: What a stage makes → the name it is registered under.
REGISTERED_NAMES = {
    "autoencoder": "backdrop-autoencoder",
    "pretrained_dit": "backdrop-pretrained-dit",
    "inpainting_finetune": "backdrop-inpainting-finetune",
    "distilled_model": "backdrop-distilled-model",
    "tensorrt_engine": "backdrop-engine",
    "personalized_model": "backdrop-personalized-model",
}


class RegistryError(ServiceError):
    """MLflow did not do what it was asked. `code`: its own word for why, empty where it did not answer."""

    def __init__(self, error: Exception) -> None:
        self.code = str(getattr(error, "error_code", ""))
        said = " ".join(str(error).split())[:500]
        super().__init__(
            f"MLflow did not answer as it should: {said}",
            "Check BACKDROP_MLFLOW_URI and that server's log, then run the same command again.",
        )


@dataclass(frozen=True)
class ModelVersion:
    """One registered version: its number in the registry, the bundle it stands for, its tags and its MLflow run."""

    name: str
    version: str
    bundle: str
    tags: Mapping[str, str] = field(default_factory=dict)
    run: str = ""


def source_of(bundle: str) -> str:
    """The registry's source URI of a bundle id."""
    return f"{SCHEME}:///{bundle}"


def bundle_of(uri: str) -> str:
    """The bundle id in a `backdrop://` URI; raises BackdropError for any other URI."""
    scheme, separator, bundle = uri.partition("://")
    bundle = bundle.strip("/")
    if scheme != SCHEME or not separator or len(bundle) != 64 or set(bundle) - set("0123456789abcdef"):
        raise BackdropError(
            f"{uri!r} names no bundle; expected {SCHEME}:///<64 hexadecimal digits>.",
            "Register models through deploy.registry, which writes such a source.",
        )
    return bundle


class Registry:
    """Registered models of one MLflow server at `uri`. Every method raises RegistryError where that does not answer."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def _client(self) -> MlflowClient:
        # MLflow's own defaults let one call take minutes to fail.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_SECONDS))
        from mlflow import MlflowClient  # seconds of import

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _ask(self, call: str, *arguments: Any, **named: Any) -> Any:
        """One call of MlflowClient's, or of its short cut where that has it and may be taken."""
        short = hasattr(ShortCut, call) and self.uri.startswith("http") and not _credentials()
        client = ShortCut(self.uri) if short else self._client()
        try:
            return getattr(client, call)(*arguments, **named)
        except Exception as error:  # MlflowException (importing it to name it costs those seconds), or of the network
            if not isinstance(error, OSError) and not hasattr(error, "error_code"):
                raise
            raise RegistryError(error) from error

    def _ask_of(self, name: str, version: str, call: str, *arguments: Any, who: str = "") -> Any:
        """A call about one version; raises BackdropError where there is none (any more)."""
        gone = BackdropError(
            f"{who}, which is gone." if who else f"There is no version {version} of {name}.",
            f"`backdrop history --model {name}` lists the versions that were champion; promote one that is there.",
        )
        if not _NUMBER.fullmatch(version):
            raise gone
        try:
            return self._ask(call, *arguments)
        except RegistryError as error:
            if error.code not in _GONE:
                raise
            raise gone from None

    def register(
        self,
        name: str,
        bundle: str,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> str:
        """The version of `name` that holds `bundle`: made now, or found when it was registered before."""
        _known(name)
        found = self.find(name, bundle)
        if found is not None:
            log.info("%s version %s already holds bundle %s", name, found.version, bundle[:12])
            return found.version
        try:
            self._ask("create_registered_model", name)
        except RegistryError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self._ask(
            "create_model_version",
            name,
            source=source_of(bundle),
            run_id=run_id,
            tags={**{key: str(value) for key, value in (tags or {}).items()}, BUNDLE_TAG: bundle},
            description=description or None,
        )
        return str(made.version)

    def find(self, name: str, bundle: str) -> ModelVersion | None:
        """The version of `name` that holds `bundle` (the oldest, should two writers have raced), or None."""
        query = f"name='{name}' and tags.`{BUNDLE_TAG}`='{bundle}'"
        versions = sorted(int(found.version) for found in self._ask("search_model_versions", query))
        return ModelVersion(name, str(versions[0]), bundle) if versions else None

    def taint(self, name: str, bundle: str, why: str) -> list[str]:
        """Tag every version of `name` that holds `bundle` as trained on what was taken down since; their numbers.

        A version that several takedowns concern carries all their reasons. Its model card begins with each of them.
        """
        tagged = []
        for version in self._ask("search_model_versions", f"name='{name}' and tags.`{BUNDLE_TAG}`='{bundle}'"):
            reasons = [part for part in version.tags.get(TAINT_TAG, "").split("; ") if part]
            if why not in reasons:
                self._ask("set_model_version_tag", name, version.version, TAINT_TAG, "; ".join([*reasons, why]))
                card = f"**Trained on what was taken down since: {why}**\n\n{version.description or ''}"
                self._ask("update_model_version", name, version.version, card[:DESCRIPTION_LENGTH])
            tagged.append(str(version.version))
        return sorted(tagged, key=int)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → version of `name`, as they are set: also of a version that is gone. Empty for an unknown model."""
        try:
            found = self._ask("get_registered_model", name).aliases
        except RegistryError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: str(found[alias]) for alias in sorted(found)}

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point `alias` of `name` at `version`. The champion's is moved by `deploy.promotion` alone."""
        self._ask_of(name, version, "set_registered_model_alias", name, alias, version)

    def drop_alias(self, name: str, alias: str) -> None:
        """Unset `alias` of `name`; nothing happens where it is not set."""
        self._ask("delete_registered_model_alias", name, alias)

    def get_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that `alias` points at, or None where nobody set it. Raises BackdropError where it is gone."""
        version = self.aliases(name).get(alias)
        return None if version is None else self.version(name, version, f"{name}@{alias} points at version {version}")

    def version(self, name: str, version: str, who: str = "") -> ModelVersion:
        """A version by its number; raises BackdropError for one that there is not (any more)."""
        found = self._ask_of(name, version, "get_model_version", name, version, who=who)
        return ModelVersion(
            name, str(found.version), bundle_of(found.source or ""), dict(found.tags), found.run_id or ""
        )

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._ask_of(name, version, "set_model_version_tag", name, version, key, value)

    def describe(self, name: str, version: str, text: str) -> None:
        """Set a version's description, which MLflow's page shows as Markdown."""
        self._ask_of(name, version, "update_model_version", name, version, text)


class ShortCut:
    """The calls of MlflowClient that a promotion makes, over MLflow's REST interface, for a server without a login.

    Importing MLflow's own client costs a second or more, and a rollback must not wait for it.
    """

    def __init__(self, uri: str) -> None:
        self._root = f"{uri.rstrip('/')}/api/2.0/mlflow"

    def get_registered_model(self, name: str) -> Any:
        """With `aliases`: alias → version."""
        found = self._send("GET", "registered-models/get", name=name)["registered_model"]
        return SimpleNamespace(aliases={one["alias"]: one["version"] for one in found.get("aliases", [])})

    def get_model_version(self, name: str, version: str) -> Any:
        """With `version`, `source`, `run_id` and `tags`."""
        found = self._send("GET", "model-versions/get", name=name, version=version)["model_version"]
        tags = {one["key"]: one["value"] for one in found.get("tags", [])}
        return SimpleNamespace(
            version=found["version"], source=found.get("source", ""), run_id=found.get("run_id", ""), tags=tags
        )

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Where there is no such version it is refused."""
        self._send("POST", "registered-models/alias", name=name, alias=alias, version=version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Also one that is not set."""
        self._send("DELETE", "registered-models/alias", name=name, alias=alias)

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        """Replaces an older value."""
        self._send("POST", "model-versions/set-tag", name=name, version=version, key=key, value=value)

    def _send(self, verb: str, path: str, **fields: str) -> dict[str, Any]:
        import requests

        where = {"params" if verb == "GET" else "json": fields}
        answer = requests.request(verb, f"{self._root}/{path}", timeout=_SECONDS, **where)  # type: ignore[arg-type]
        try:
            said = answer.json()
        except ValueError:
            said = {}
        if not answer.ok or not isinstance(said, dict):
            raise _Refusal(answer.status_code, said if isinstance(said, dict) else {})
        return said


class _Refusal(Exception):
    """An answer that is none, as MlflowException has it."""

    def __init__(self, status: int, said: Mapping[str, Any]) -> None:
        super().__init__(said.get("message") or f"HTTP status {status}")
        self.error_code = str(said.get("error_code", status))


def _credentials() -> bool:
    """Whether MLflow's own client would send or check more than is said here."""
    set_here = any(name.startswith("MLFLOW_TRACKING_") and name != "MLFLOW_TRACKING_URI" for name in os.environ)
    return set_here or "MLFLOW_WORKSPACE" in os.environ or Path("~/.mlflow/credentials").expanduser().exists()


def _known(name: str) -> None:
    if name not in REGISTERED_NAMES.values():
        names = sorted(REGISTERED_NAMES.values())
        raise BackdropError(
            f"There is no registered model name {name!r}.{nearest(name, names)}",
            f"Names are: {', '.join(names)}.",
        )
