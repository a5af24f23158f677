"""The model registry: MLflow holds names, versions and aliases; the bytes stay in the object store.

A version's source is `backdrop:///<sha256 of the bundle's manifest>`; without the third slash the id would be a host,
and MLflow refuses a source without a path. MLflow's server refuses local paths outside a
run's artifact folder, and a path would change with the machine; an id that is a hash does neither.
`deploy.artifact_repository` resolves the scheme, so `mlflow.artifacts.download_artifacts("models:/name@champion")`
works.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import BackdropError, nearest

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

SCHEME = "backdrop"
BUNDLE_TAG = "backdrop.bundle"
TAINT_TAG = "backdrop.tainted"
CHALLENGER, CHAMPION = "challenger", "champion"

#: What a stage makes → the name it is registered under.
REGISTERED_NAMES = {
    "autoencoder": "backdrop-autoencoder",
    "pretrained_dit": "backdrop-pretrained-dit",
    "inpainting_finetune": "backdrop-inpainting-finetune",
    "distilled_model": "backdrop-distilled-model",
    "tensorrt_engine": "backdrop-engine",
    "personalized_model": "backdrop-personalized-model",
}


@dataclass(frozen=True)
class ModelVersion:
    """One registered version: its number in the registry and the bundle it stands for."""

    name: str
    version: str
    bundle: str


@dataclass(frozen=True)
class Promotion:
    """Where the aliases stand afterwards: `version` is the challenger, `champion` a version or "none"."""

    version: str
    champion: str


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
    """Registered models of one MLflow server at `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient  # 4 s of import, and only who registers needs it

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def register(
        self,
        name: str,
        bundle: str,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> str:
        """The version of `name` that holds `bundle`: made now, or found when it was registered before."""
        from mlflow.exceptions import MlflowException

        _known(name)
        client = self._client()
        found = self.find(name, bundle)
        if found is not None:
            log.info("%s version %s already holds bundle %s", name, found.version, bundle[:12])
            return found.version
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
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
        versions = sorted(int(found.version) for found in self._client().search_model_versions(query))
        return ModelVersion(name, str(versions[0]), bundle) if versions else None

    def taint(self, name: str, bundle: str, why: str) -> list[str]:
        """Tag every version of `name` that holds `bundle` as trained on what was taken down since; their numbers.

        A version that several takedowns concern carries all their reasons.
        """
        client = self._client()
        tagged = []
        for version in client.search_model_versions(f"name='{name}' and tags.`{BUNDLE_TAG}`='{bundle}'"):
            reasons = [part for part in version.tags.get(TAINT_TAG, "").split("; ") if part]
            if why not in reasons:
                client.set_model_version_tag(name, version.version, TAINT_TAG, "; ".join([*reasons, why]))
            tagged.append(str(version.version))
        return sorted(tagged, key=int)

    def aliases(self, name: str) -> list[str]:
        """The aliases that are set of `name`."""
        from mlflow.exceptions import MlflowException

        try:
            return sorted(self._client().get_registered_model(name).aliases)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point `alias` of `name` at `version`."""
        self._client().set_registered_model_alias(name, alias, version)

    def get_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that `alias` points at, or None where nobody set it."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client().get_model_version_by_alias(name, alias)
        except MlflowException as error:
            # An unset alias is INVALID_PARAMETER_VALUE in MLflow 3, an unknown model RESOURCE_DOES_NOT_EXIST.
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise
        return ModelVersion(name, str(found.version), bundle_of(found.source or ""))

    def promote(self, name: str, bundle: str, checks_passed: bool) -> Promotion:
        """Make the version that holds `bundle` the challenger, and the champion too when its checks passed.

        Raises BackdropError when `bundle` was never registered under `name`.
        """
        found = self.find(name, bundle)
        if found is None:
            raise BackdropError(
                f"No version of {name} holds bundle {bundle[:12]}….", "Materialise tensorrt_engine, which registers it."
            )
        self.set_alias(name, CHALLENGER, found.version)
        if checks_passed:
            self.set_alias(name, CHAMPION, found.version)
        champion = self.get_alias(name, CHAMPION)
        outcome = Promotion(found.version, champion.version if champion else "none")
        log.info("%s: @challenger is version %s, @champion is %s", name, outcome.version, outcome.champion)
        return outcome


def _known(name: str) -> None:
    if name not in REGISTERED_NAMES.values():
        names = sorted(REGISTERED_NAMES.values())
        raise BackdropError(
            f"There is no registered model name {name!r}.{nearest(name, names)}",
            f"Names are: {', '.join(names)}.",
        )
