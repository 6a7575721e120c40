"""Asking the double, one request a connection, and waiting for what it does."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from tests.doubles.webui.double import WebUIDouble
from tests.doubles.webui.routes import API

LIMIT: Final = 60.0
Answer = tuple[int, Any]


def ask(double: WebUIDouble, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """Ask a path, relative to the API unless it begins with a slash; bytes go as they are.

    Returns:
        The status and the document.
    """
    status, _, content = ask_raw(double, method, path, body, headers)
    return status, json.loads(content)


def ask_raw(
    double: WebUIDouble, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """The same without reading the document: status, headers by their names in lower case, and content."""
    connection = http.client.HTTPConnection("127.0.0.1", double.port, timeout=LIMIT)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        where = path if path.startswith("/") else API + path
        connection.request(method, where, content, {"Content-Type": "application/json"} | (headers or {}))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


class Asking:
    """A request under way in a thread of its own."""

    def __init__(self, double: WebUIDouble, method: str, path: str, body: Any = None) -> None:
        self._answer: Answer | None = None
        self._thread = threading.Thread(target=self._run, args=(double, method, path, body))
        self._thread.start()

    def _run(self, double: WebUIDouble, method: str, path: str, body: Any) -> None:
        self._answer = ask(double, method, path, body)

    @property
    def answered(self) -> bool:
        return not self._thread.is_alive()

    def answer(self) -> Answer:
        """Wait for the answer."""
        self._thread.join(LIMIT)
        assert self._answer is not None, "no answer"
        return self._answer


def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds, for LIMIT seconds at most."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.002)
