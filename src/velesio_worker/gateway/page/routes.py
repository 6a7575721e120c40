"""The chat page's files: those that are there when the gateway starts, from memory, to anybody.

They hold nothing of anyone's, so no token is asked for; what the page then does takes one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.live import dialect
from velesio_worker.gateway.middleware import error_body

_FOLDER: Final = Path(__file__).with_name("static")
_INDEX: Final = "index.html"
_VENDOR: Final = "vendor/"

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""What is served, by a file's ending; licences and the lock are not: they are for who has the source."""

_OF_CONTENT: Final = frozenset({"content-type", "content-length"})

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
"""Nothing but the page's own files runs or is loaded, and no text becomes markup but through DOMPurify."""


class Asset(NamedTuple):
    """One file, as it is sent.

    Attributes:
        content: its bytes.
        headers: its headers, an ``ETag`` among them.
    """

    content: bytes
    headers: dict[str, str]


def assets(folder: Path = _FOLDER) -> dict[str, Asset]:
    """Return all files of a folder that are served, by their path below it."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _TYPES and path.is_file())
    return {name: _asset(name, path) for path in files for name in [path.relative_to(folder).as_posix()]}


def _asset(name: str, path: Path) -> Asset:
    content = path.read_bytes()
    headers = {
        "content-type": _TYPES[path.suffix],
        "content-length": str(len(content)),
        "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        # A library's folder has its version in its name. All else is asked for anew, and answered by 304.
        "cache-control": "public, max-age=31536000, immutable" if name.startswith(_VENDOR) else "no-cache",
        "cross-origin-resource-policy": "same-origin",
        "content-security-policy": CONTENT_SECURITY_POLICY,
    }
    return Asset(content, headers)


def routes() -> list[Route]:
    """Return the page's routes."""
    page = _Page(assets())
    found = (
        Route("/", page.index, methods=["GET", "HEAD"]),
        Route("/static/{path:path}", page.file, methods=["GET", "HEAD"]),
    )
    return dialect(found, error_body)


class _Page:
    def __init__(self, files: dict[str, Asset]) -> None:
        self._files = files

    async def index(self, request: Request) -> Response:
        """Answer with the page."""
        return _answer(request, self._files[_INDEX])

    async def file(self, request: Request) -> Response:
        """Answer with a file of the page; a path is a key and nothing else, so no file is reached by a trick."""
        found = self._files.get(request.path_params["path"])
        if found is None:
            raise ApiError(404, "not_found", "The page has no such file.")
        return _answer(request, found)


def _answer(request: Request, asset: Asset) -> Response:
    if _is_known(request.headers.get("if-none-match", ""), asset.headers["etag"]):
        kept = {name: value for name, value in asset.headers.items() if name not in _OF_CONTENT}
        return Response(status_code=304, headers=kept)
    return Response(b"" if request.method == "HEAD" else asset.content, headers=asset.headers)


def _is_known(if_none_match: str, etag: str) -> bool:
    """Whether the client has it already (RFC 9110, section 13.1.2)."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in {etag, "*"} for tag in tags)
