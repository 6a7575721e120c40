"""The store for results that is a bucket of S3, or of what speaks its protocol; by obstore, an extra."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import quote, urlsplit

import anyio

from velesio_worker.core.secrets import hide_password, unread
from velesio_worker.execution.results.folder_store import PUT_SECONDS, StoreError, no_store, plain_name
from velesio_worker.wire.errors import SettingsError

LONGEST_SIGNED: Final = 7 * 24 * 3600
"""S3 takes no signed URL that is valid for longer, in seconds."""

_RETRIES: Final = 3
_REASON_CHARACTERS: Final = 300
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_TRUE: Final = frozenset({"1", "true", "on", "yes", "y"})  # as obstore reads them


class S3Store:
    """Stores files in a bucket of S3, or of what speaks its protocol.

    Credentials, region and endpoint come from the environment, under the names that obstore knows: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP and others. Without a key it
    asks the host's metadata service; it reads neither ``~/.aws`` nor AWS_PROFILE.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.
        public_url: where the bucket can be read; without it, URLs are signed ones.
        signed_seconds: how long signed URLs are valid, seven days at most; with temporary credentials no longer than
            those.
        put_seconds: how long the server may take for a file, with all the tries.

    Raises:
        SettingsError: the URL is none, obstore is missing, or an AWS variable has a wrong value.
    """

    def __init__(
        self,
        url: str,
        public_url: str | None = None,
        *,
        signed_seconds: int = 3600,
        put_seconds: float = PUT_SECONDS,
    ) -> None:
        self._put_seconds = put_seconds
        self._bucket, self._prefix = _bucket_and_prefix(url)
        self._public_url = public_url
        self._valid = timedelta(seconds=min(signed_seconds, LONGEST_SIGNED))
        _check_endpoint(os.environ)
        try:
            import obstore  # noqa: PLC0415 (an extra)
            from obstore.exceptions import BaseError  # noqa: PLC0415
            from obstore.store import S3Store as Bucket  # noqa: PLC0415
        except ImportError as error:
            raise SettingsError(
                f"RESULT_STORE={url!r} needs obstore, which is missing ({error}): pip install velesio-worker[s3]"
            ) from None
        self._obstore = obstore
        try:
            self._objects = Bucket(
                self._bucket,
                retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=put_seconds)},
            )
        except BaseError as error:
            raise SettingsError(f"S3 cannot be used ({_brief(error)}): check the AWS_* variables") from None

    async def put(self, name: str, content: bytes) -> str:
        """Store a file; see :meth:`ResultStore.put`."""
        key = "/".join([*filter(None, [self._prefix]), plain_name(name)])
        try:
            with anyio.fail_after(self._put_seconds):
                await self._obstore.put_async(
                    self._objects,
                    key,
                    content,
                    attributes={"Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream"},
                    use_multipart=False,
                )
                return await self._url(key)
        except Exception as error:  # noqa: BLE001 (where obstore panics, that has a class of its own)
            raise self._explained(error) from None

    async def _url(self, key: str) -> str:
        if self._public_url:
            return f"{self._public_url.rstrip('/')}/{quote(key)}"
        return await self._obstore.sign_async(self._objects, "GET", key, self._valid)

    def _explained(self, error: Exception) -> StoreError:
        refused = (self._obstore.exceptions.PermissionDeniedError, self._obstore.exceptions.UnauthenticatedError)
        match error:
            case FileNotFoundError():
                reason, remedy = "there is no such bucket", "make it, or name another one in RESULT_STORE"
            case TimeoutError():
                reason = f"no answer in {self._put_seconds:g} s"
                remedy = "check AWS_ENDPOINT_URL, and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set"
            case _ if isinstance(error, (*refused, PermissionError)):
                reason = _brief(error)
                remedy = "let AWS_ACCESS_KEY_ID have s3:PutObject there, and check AWS_SECRET_ACCESS_KEY and AWS_REGION"
            case _:
                reason = _brief(error)
                remedy = "check RESULT_STORE, AWS_ENDPOINT_URL, AWS_REGION and AWS_ACCESS_KEY_ID"
        return StoreError(f"the bucket {self._bucket} takes no file ({reason}): {remedy}")


def _bucket_and_prefix(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    parts = prefix.split("/") if prefix else []
    if scheme != "s3" or not bucket or set(bucket) & set("@:?# ") or {"", ".", ".."} & set(parts):
        raise no_store(url)
    return bucket, prefix


def _check_endpoint(environ: Mapping[str, str]) -> None:
    """Say what obstore would say late, and not at all clearly."""
    for name in _ENDPOINTS:
        url = environ.get(name)
        if url is None:
            continue
        if not _is_http(url):
            raise SettingsError(f"{name}={unread(url)!r}: must be a URL such as https://s3.example.com, or unset")
        if url.startswith("http:") and environ.get("AWS_ALLOW_HTTP", "").lower() not in _TRUE:
            raise SettingsError(f"{name} begins with http://, which is not encrypted: set AWS_ALLOW_HTTP=true")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isascii() and not set(url) & set(" \t\n")


def _brief(error: Exception) -> str:
    """Return an error's text on one line; obstore adds pages of its inner state."""
    text = (str(error).split("\n\nDebug source", 1)[0]).strip() or type(error).__name__
    text = hide_password(" ".join(text.split()))
    return text if len(text) <= _REASON_CHARACTERS else f"{text[:_REASON_CHARACTERS]}…"
