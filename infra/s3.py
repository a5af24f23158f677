"""The object store in a bucket: boto3 behind the small interface of :mod:`infra.object_store`."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import BackdropError, ServiceError
from infra.files import write_atomic_with
from infra.uris import Listed, ObjectMissing

_MISSING = {"404", "NoSuchKey", "NotFound"}
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}


def split_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/prefix` → ("bucket", "some/prefix")."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise BackdropError(f"'{uri}' names no bucket", "write s3://bucket/prefix")
    return bucket, prefix


class S3Store:
    """Objects below `s3://bucket/prefix`. Credentials and region come from boto3's usual places."""

    def __init__(self, uri: str) -> None:
        self.bucket, prefix = split_uri(uri)
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uri = f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def _client(self) -> Any:
        return client()

    def put(self, key: str, data: bytes) -> None:
        with self._explained(key):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    def put_file(self, key: str, path: Path) -> None:
        with self._explained(key):
            self._client.upload_file(str(path), self.bucket, self.prefix + key)

    def take_file(self, key: str, path: Path) -> None:
        self.put_file(key, path)
        path.unlink()

    def get(self, key: str) -> bytes:
        with self._explained(key):
            return self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except ObjectMissing:
            return False
        return True

    def size(self, key: str) -> int:
        with self._explained(key):
            return self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ContentLength"]

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        after = {"StartAfter": self.prefix + start_after} if start_after else {}
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix, **after
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"][len(self.prefix) :]

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def delete_prefix(self, prefix: str) -> None:
        # One by one: some S3-compatible servers want a Content-MD5 on the batch call; boto3 sends none.
        for key in list(self.list(prefix)):
            self.delete(key)

    def fetch(self, key: str, path: Path) -> None:
        with self._explained(key):
            write_atomic_with(path, lambda file: self._client.download_fileobj(self.bucket, self.prefix + key, file))

    def local_path(self, key: str) -> Path | None:
        return None

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        with explained(f"{self.uri}/{key}"):
            yield


#: What a client depends on: another value needs another client.
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "S3_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
)
_making = threading.Lock()  # boto3's default session makes one client at a time


def client() -> Any:
    """This process's client, shared by its threads: making one costs more than most requests.

    One per process, because its connections must not be shared across a fork.
    """
    with _making:
        return _client(os.getpid(), tuple(map(os.environ.get, _ENVIRONMENT)))


@functools.lru_cache(maxsize=4)
def _client(process: int, environment: tuple[str | None, ...]) -> Any:
    return connect()


def connect() -> Any:
    """A boto3 client; AWS_ENDPOINT_URL or S3_ENDPOINT_URL names a server other than AWS."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("S3_ENDPOINT_URL"),
        config=Config(
            retries={"mode": "standard", "max_attempts": 5},
            connect_timeout=10,
            max_pool_connections=32,  # threads that read at once
            # Older S3-compatible servers refuse the checksums that boto3 adds by default.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns botocore's exceptions about `uri` into ours: missing, denied, or not reachable."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise BackdropError(
            f"no S3 credentials to open {uri}",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
        ) from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            raise ObjectMissing(f"there is no object {uri}", "check the key and BACKDROP_STORE") from error
        if code == "NoSuchBucket":
            raise BackdropError(f"the bucket of {uri} does not exist", "create it or check the name") from error
        if code in _DENIED:
            raise BackdropError(
                f"access to {uri} was denied ({code})", "check the credentials and the bucket's policy"
            ) from error
        if code in {"412", "PreconditionFailed"}:
            raise BackdropError(
                f"{uri} was replaced while it was being read", "run again when the delivery is complete"
            ) from error
        raise ServiceError(f"S3 refused {uri}: {error}", "check the server; the request may be repeated") from error
    except BotoCoreError as error:
        raise ServiceError(f"S3 did not answer for {uri}: {error}", "check AWS_ENDPOINT_URL and the network") from error


def read_s3(uri: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of an `s3://bucket/key` object, or (`size`) that many from `offset` on, fewer at its end."""
    bucket, key = split_uri(uri)
    if size == 0:
        return b""
    part = {} if size is None else {"Range": f"bytes={offset}-{offset + size - 1}"}
    with explained(uri):
        try:
            return client().get_object(Bucket=bucket, Key=key, **part)["Body"].read()
        except client().exceptions.ClientError as error:
            if size is not None and error.response.get("Error", {}).get("Code") == "InvalidRange":
                return b""
            raise


def list_s3(uri: str) -> Iterator[Listed]:
    """The object, or all objects below the folder, that `uri` names, sorted as the server sorts them (by key)."""
    bucket, prefix = split_uri(uri)
    folder = f"{prefix.rstrip('/')}/" if prefix else ""  # 'photos' names 'photos/', not 'photos-old/' beside it
    with explained(uri):
        if prefix and not prefix.endswith("/"):
            # Listed rather than asked for by HEAD: a key that is exactly the prefix sorts before all others.
            first = client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", ())
            for entry in first:
                if entry["Key"] == prefix:
                    yield _listed(bucket, prefix.rpartition("/")[2], entry)
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    yield _listed(bucket, entry["Key"][len(folder) :], entry)


def _listed(bucket: str, name: str, entry: dict[str, Any]) -> Listed:
    return Listed(name, f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))
