"""Every environment variable that the line reads, typed, in one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra.errors import BackdropError, nearest

REPOSITORY = Path(__file__).resolve().parent.parent
PREFIX = "BACKDROP_"

# Not settings: what the launcher and its job tell each other.
INTERNAL_PREFIXES = ("BACKDROP_JOB_",)


class Settings(BaseModel):
    """The line's settings. A URL of `None` means the embedded server. Unset and empty are the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Path = REPOSITORY / ".backdrop"
    """Everything the line leaves behind; also DAGSTER_HOME."""
    store: str | None = None
    """The object store: file:///folder, a folder, or s3://bucket/prefix. None: a folder below `state`."""

    catalog_url: str | None = None
    dagster_url: str | None = None
    mlflow_db_url: str | None = None
    mlflow_uri: str | None = None
    mlflow_page: str | None = None
    """Where people open MLflow, for links. None: the server's own address."""

    preset: str = "nano"
    config: Path | None = None
    """A YAML file whose keys are merged over the preset."""
    images: str | None = None
    """The user's own pictures: a folder or an s3:// prefix."""
    watch: str | None = None
    """A prefix in which new deliveries appear (for the sensor)."""
    samples: Path | None = None
    """Real photographs for the tests."""
    text_encoder: str | None = None
    """A Hugging Face id or a local path. None: the embedded MiniLM."""
    adopt: Literal["share", "all", "pinned"] = "share"
    """When autoencoder and pretrained model take a newer training_set: once `adopt_share` of it is new to them, always,
    or only when they are asked to."""
    adopt_share: float = Field(0.2, gt=0, allow_inf_nan=False)
    """New images over those that the stage was trained on."""
    retrain_share: float = Field(0.2, gt=0, allow_inf_nan=False)
    """New images over those that the champion's pretrained model saw, at which a retraining is asked for early."""
    gpu_hours_per_week: float | None = Field(None, ge=0, allow_inf_nan=False)
    """What automation may spend in seven days; people's own runs count, and are never held up. None: no limit."""
    sample_catalogue: bool = True
    """Keep the rendered sample catalogue in the mix beside the user's own deliveries."""
    launcher: Literal["local", "kubernetes"] = "local"
    """Where jobs run: on this machine, or on a cluster."""
    cluster: Path | None = None
    """The YAML file that describes the cluster (infra.jobs.kubernetes.settings)."""
    licence: str = "unspecified"
    """What is written down as the licence of pictures that do not bring their own."""
    signing_key: str | None = None
    """Where the private key lies that signs engines: env:NAME or file:/path. None: one of its own below `state`."""
    trusted_keys: str | None = None
    """Public keys whose signatures count, separated by commas. None: that of the signing key alone."""
    approval: Literal["none", "required"] = "none"
    """Whether a version needs a human's approval before the line makes it champion."""
    approvers: str | None = None
    """Who may approve, promote, reject and roll back: name=public key, separated by commas. None: everybody."""
    approver_key: str | None = None
    """Where your own private key lies, for commands that have to be signed: env:NAME or file:/path."""
    alert_webhook: str | None = None
    """Where alerts are posted to: an https:// address, or where a secret one lies, env:NAME or file:/path."""
    alert_webhook_key: str | None = None
    """Where the key lies that signs what is posted (HMAC-SHA256): env:NAME or file:/path."""
    alert_webhook_http: bool = False
    """Also post to http:// addresses that are not on this machine."""
    alert_email: str | None = None
    """Who gets alerts by e-mail: addresses, separated by commas."""
    alert_from: str | None = None
    """Whom they are from. None: the user of `smtp`, where that is an address, or backdrop@<this host>."""
    smtp: str | None = None
    """The mail server: smtp://user@host:587 (STARTTLS) or smtps://user@host:465 (TLS)."""
    smtp_password: str | None = None
    """Where its password lies: env:NAME or file:/path."""
    dagster_page: str | None = None
    """Where people open Dagster, for the links in alerts. None: http://127.0.0.1:3000, on a cluster no links."""
    runbook: str | None = None
    """Where people read docs/runbook.md, for the links in alerts. None: its path."""
    studio_url: str | None = None
    """Where the studio answers, for the alerts on what it counts; several are separated by commas. None: not asked."""

    @field_validator("state", "config", "samples", "cluster", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value is not None else None

    @field_validator("images", "watch", "store", mode="after")
    @classmethod
    def _absolute_place(cls, value: str | None) -> str | None:
        return _as_uri(value) if value else None

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The settings from the environment; an unknown or malformed variable is one clear error."""
        variables = os.environ if environment is None else environment
        _refuse_unknown(variables, set(cls.model_fields))
        given = {name: variables.get(f"{PREFIX}{name.upper()}") for name in cls.model_fields}
        try:
            return cls.model_validate({name: value for name, value in given.items() if value})
        except ValidationError as error:
            first = error.errors()[0]
            name = f"{PREFIX}{str(first['loc'][0]).upper()}" if first["loc"] else PREFIX
            raise BackdropError(
                f"{name}={first['input']!r} is not valid: {first['msg']}", f"change or unset {name}"
            ) from error

    @property
    def mlflow_links(self) -> str:
        """What links to MLflow begin with, for whoever reads them in a browser."""
        return (self.mlflow_page or self.mlflow_uri or "").rstrip("/")

    @property
    def store_uri(self) -> str:
        """The object store as a URI, given or default."""
        return self.store or _as_uri(str(self.state / "store"))


def _refuse_unknown(environment: Mapping[str, str], fields: set[str]) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in fields}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not name.startswith(INTERNAL_PREFIXES):
            raise BackdropError(
                f"the environment variable {name} is not a setting.{nearest(name, known)}",
                f"unset it, or use one of {', '.join(sorted(known))}",
            )


def _as_uri(place: str) -> str:
    """A URI as given; a plain path as an absolute `file://` URI, the same for every process."""
    return place if "://" in place else Path(place).expanduser().absolute().as_uri()
