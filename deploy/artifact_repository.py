"""MLflow's side of the `backdrop://` scheme. MLflow loads this class through its entry point, never our code.

Read-only on purpose: what a bundle holds is settled by its id.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from deploy.registry import bundle_of
from infra.bundles import Bundle, open_bundle
from infra.errors import BackdropError


class BackdropArtifactRepository(ArtifactRepository):
    """Files of the bundle `backdrop://<sha256>`, read from the object store of the settings, verified by hash."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)
        self._bundle: Bundle | None = None

    @property
    def bundle(self) -> Bundle:
        """The bundle, opened on first use: MLflow builds repositories that it never reads."""
        if self._bundle is None:
            from infra.object_store import open_store
            from infra.settings import Settings

            try:
                self._bundle = open_bundle(open_store(Settings.load().store_uri), bundle_of(self.artifact_uri))
            except BackdropError as error:
                raise MlflowException(str(error)) from error
        return self._bundle

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """The bundle's files; a bundle is flat, so anything but its root lists nothing."""
        if path:
            return []
        return [FileInfo(name, False, entry.size) for name, entry in sorted(self.bundle.files.items())]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        try:
            with tempfile.TemporaryDirectory(dir=Path(local_path).parent) as folder:
                shutil.move(self.bundle.fetch(remote_file_path, Path(folder)), local_path)
        except BackdropError as error:
            raise MlflowException(str(error)) from error

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        raise MlflowException(f"{self.artifact_uri} is read-only: write bundles with infra.bundles.write_bundle.")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        self.log_artifact(local_dir, artifact_path)
