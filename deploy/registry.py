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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.errors import BackdropError, nearest

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

SCHEME = "backdrop"
BUNDLE_TAG = "backdrop.bundle"
TAINT_TAG = "backdrop.tainted"
DESCRIPTION_LENGTH = 5000  # of a version's description in MLflow's database
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

        A version that several takedowns concern carries all their reasons. Its model card begins with each of them.
        """
        client = self._client()
        tagged = []
        for version in client.search_model_versions(f"name='{name}' and tags.`{BUNDLE_TAG}`='{bundle}'"):
            reasons = [part for part in version.tags.get(TAINT_TAG, "").split("; ") if part]
            if why not in reasons:
                client.set_model_version_tag(name, version.version, TAINT_TAG, "; ".join([*reasons, why]))
                card = f"**Trained on what was taken down since: {why}**\n\n{version.description or ''}"
                client.update_model_version(name, version.version, card[:DESCRIPTION_LENGTH])
            tagged.append(str(version.version))
        return sorted(tagged, key=int)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → version of `name`, as they are set: also of a version that is gone. Empty for an unknown model."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client().get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: str(found[alias]) for alias in sorted(found)}

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point `alias` of `name` at `version`. The champion's is moved by `deploy.promotion` alone."""
        self._client().set_registered_model_alias(name, alias, version)

    def drop_alias(self, name: str, alias: str) -> None:
        """Unset `alias` of `name`; nothing happens where it is not set."""
        self._client().delete_registered_model_alias(name, alias)

    def get_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that `alias` points at, or None where nobody set it. Raises BackdropError where it is gone."""
        version = self.aliases(name).get(alias)
        return None if version is None else self.version(name, version, f"{name}@{alias} points at version {version}")

    def version(self, name: str, version: str, who: str = "") -> ModelVersion:
        """A version by its number; raises BackdropError for one that there is not (any more)."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client().get_model_version(name, version)
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            raise BackdropError(
                f"{who}, which is gone." if who else f"There is no version {version} of {name}.",
                f"`backdrop history --model {name}` lists the versions that were champion; promote one that is there.",
            ) from None
        return ModelVersion(
            name, str(found.version), bundle_of(found.source or ""), dict(found.tags), found.run_id or ""
        )

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        client = self._client()
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)

    def describe(self, name: str, version: str, text: str) -> None:
        """Set a version's description, which MLflow's page shows as Markdown."""
        self._client().update_model_version(name, version, text)


def _known(name: str) -> None:
    if name not in REGISTERED_NAMES.values():
        names = sorted(REGISTERED_NAMES.values())
        raise BackdropError(
            f"There is no registered model name {name!r}.{nearest(name, names)}",
            f"Names are: {', '.join(names)}.",
        )
