"""What a captioner is told. Light to import; it holds no secret: the API key is named, never written."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.errors import BackdropError
from infra.files import canonical_json, sha256_bytes

PROMPT = (
    "Describe this picture for an image-editing model in one or two plain sentences: the product, its material and"
    " colours, then the background and the light. Say only what is visible. No introduction, no opinion."
)
_FORMAT = 1  # of the cached answers and of how a text is read from one
# Keys in common use have lower-case letters or a hyphen; a pasted key must not pass for a name.
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


class CaptionSection(BaseModel):
    """An OpenAI-compatible chat endpoint that describes pictures (vLLM, SGLang, Ollama and others serve one)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str | None = Field(None, description="base URL, like http://host:8000/v1; None: nothing is captioned")
    model: str = Field("", description="the model's name at the endpoint")
    api_key_env: str | None = Field(None, description="NAME of the environment variable that holds the API key")
    prompt: str = Field(PROMPT, min_length=1)
    max_tokens: int = Field(160, ge=1, description="of the answer; two sentences need about 60")
    temperature: float = Field(0.0, ge=0, le=2)
    options: dict[str, Any] = Field(
        default_factory=dict, description="more keys of the request's body; null takes a key out of it"
    )
    revision: str = Field("", description="change it to ask again for pictures that are in the cache")
    concurrency: int = Field(8, ge=1, le=256, description="requests under way at once")
    rate: float | None = Field(None, gt=0, description="requests per second at most, retries included; None: no limit")
    timeout_s: float = Field(60.0, gt=0, description="for one whole answer")
    attempts: int = Field(6, ge=1, description="requests for one picture before it is left without a caption")
    backoff_s: float = Field(1.0, gt=0, description="before the second attempt; doubles after each, with jitter")
    max_wait_s: float = Field(120.0, gt=0, description="a service that asks for a longer pause counts as away")
    away_after: int = Field(
        32, ge=1, description="pictures in a row that the service, not the picture, failed: it counts as away"
    )

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        # Not a ValueError: pydantic keeps the input beside those, and this may be a key.
        if value is not None and not _ENVIRONMENT_NAME.fullmatch(value):
            raise BackdropError(
                "api_key_env of the captions is not the name of an environment variable (capitals, digits, _)",
                "put the key into the environment and write the variable's name here, like CAPTION_API_KEY",
            )
        return value

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        if value is None:
            return None
        remedy = "write http://host:port/v1, and name the variable that holds the key in api_key_env"
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise BackdropError("the url of the captions is not a URL", remedy) from None
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise BackdropError("the url of the captions holds more than an address (a password or a query)", remedy)
        if parts.scheme not in ("http", "https") or not host:
            raise BackdropError("the url of the captions has no http:// or https:// and host", remedy)
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> CaptionSection:
        if self.url is not None and not self.model:
            raise ValueError("a captioner with a url needs the model's name at that endpoint (model)")
        return self

    @property
    def endpoint(self) -> str:
        """Where the requests go: `…/v1/chat/completions`."""
        address = (self.url or "").rstrip("/")
        if address.endswith("/chat/completions"):
            return address
        return f"{address}{'' if urlsplit(address).path else '/v1'}/chat/completions"

    @property
    def model_hash(self) -> str:
        """16 hex digits that name what decides the text: two settings with one hash share their cached captions.

        The address is no part of it: a model that moves to another host need not be asked again.
        """
        decides = (self.model, self.prompt, self.max_tokens, self.temperature, self.options, self.revision, _FORMAT)
        return sha256_bytes(canonical_json(decides))[:16]
