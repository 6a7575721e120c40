"""A server of files that behaves as badly as told: what it serves, which requests it spoils, and what it was asked."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.doubles.http_server import LIMIT, HTTPDouble, QuietHandler

MODIFIED: Final = email.utils.formatdate(1_700_000_000, usegmt=True)


@dataclass(frozen=True)
class Answer:
    """How a request is answered instead of with the file."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    cut: int | None = None
    """The file, but the connection is closed after so many bytes of the body."""
    stall: int | None = None
    """The file, but after so many bytes of the body nothing more comes until ``FileServer.go_on`` is set."""


@dataclass(frozen=True)
class Request:
    """What was asked."""

    path: str
    headers: dict[str, str]


class FileServer(HTTPDouble):
    """Serves ``files`` by their paths; ``answers`` are used up first, one a request.

    Attributes:
        etag, modified: the validators of every file; None for none.
        ranges: whether it knows ranges.
        if_range: whether it heeds If-Range.
        length: whether it says how long files are.
        extra: further headers of files.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(_Handler)
        self.files = files
        self.answers: list[Answer] = []
        self.always: Answer | None = None
        self.etag: str | None = '"v1"'
        self.modified: str | None = MODIFIED
        self.ranges = self.if_range = self.length = True
        self.extra: dict[str, str] = {}
        self.requests: list[Request] = []

    def asked(self, header: str) -> list[str | None]:
        """What each request had in a header."""
        return [request.headers.get(header) for request in self.requests]


class _Handler(QuietHandler):
    def do_GET(self) -> None:  # noqa: N802 (the standard library calls it so)
        files: FileServer = self.server.double
        files.requests.append(Request(self.path, {name.lower(): value for name, value in self.headers.items()}))
        answer = files.answers.pop(0) if files.answers else files.always or Answer()
        content = files.files.get(self.path.partition("?")[0])
        if answer.status != 200 or content is None:
            self._head(404 if answer.status == 200 else answer.status, answer.headers | {"Content-Length": "0"})
            return
        begin = self._begin(files)
        if begin is not None and begin >= len(content):
            self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        headers = self._headers(files, content, begin) | answer.headers
        self._head(200 if begin is None else 206, headers)
        self._body(content[begin or 0 :], answer, chunked=not files.length)

    def _begin(self, files: FileServer) -> int | None:
        """Where the asked range begins; None if the whole file is to be sent."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        fits = condition is None or condition in {files.etag, files.modified} or not files.if_range
        return int(asked.group(1)) if asked and files.ranges and fits else None

    def _headers(self, files: FileServer, content: bytes, begin: int | None) -> dict[str, str]:
        length = (
            {"Content-Length": str(len(content[begin or 0 :]))} if files.length else {"Transfer-Encoding": "chunked"}
        )
        place = {} if begin is None else {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        validators = {"ETag": files.etag, "Last-Modified": files.modified}
        return length | place | {name: value for name, value in validators.items() if value} | files.extra

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, body: bytes, answer: Answer, *, chunked: bool) -> None:
        write: Callable[[bytes], object] = self._write_chunk if chunked else self.wfile.write
        stop = answer.cut if answer.stall is None else answer.stall
        write(body[:stop])
        if answer.cut is not None:
            self.close_connection = True
            return
        if stop is not None:
            self.server.double.go_on.wait(LIMIT)
            write(body[stop:])
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
