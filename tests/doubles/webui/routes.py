"""The routes of the WebUI's API over HTTP."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from tests.doubles.http_server import QuietHandler
from tests.doubles.webui.catalogue import LATENT_UPSCALE_MODES, SAMPLERS, SCHEDULERS, SCRIPTS, UPSCALERS
from tests.doubles.webui.faults import DroppedError
from tests.doubles.webui.fields import read_document
from tests.doubles.webui.setup import ClosingError, RefusedError, Setup, crash, http_error

if TYPE_CHECKING:
    from tests.doubles.webui.double import WebUIDouble

API: Final = "/sdapi/v1/"
PAGES: Final = "/internal/"
FOLDER: Final = "/opt/webui/models"
Handler = Callable[[str, bytes], Any]
_LEAST_GZIPPED: Final = 1000
_MEMORY: Final = {
    "ram": {"free": 24419037184.0, "used": 857473024, "total": 25276510208.0},
    "cuda": {"error": "unavailable"},
}


class Routes:
    """What each method and path does; handlers take the query and the body's bytes and return the document."""

    def __init__(self, double: WebUIDouble) -> None:
        self._double = double
        self._studio = double.studio
        setup = double.setup
        self.auth = setup.api_auth
        table: dict[tuple[str, str], Handler] = {}
        if setup.api:
            table["GET", API + "progress"] = self._progress
            for name, get in self._gets(setup).items():
                table["GET", API + name] = lambda _query, _content, get=get: get()
            for name, post in self._posts().items():
                table["POST", API + name] = lambda _query, content, post=post: post(content)
        if not setup.nowebui:
            table["GET", PAGES + "ping"] = lambda _query, _content: {}
            table["GET", PAGES + "pending-tasks"] = lambda _query, _content: self._studio.tasks.waiting()
            table["POST", PAGES + "progress"] = lambda _query, content: self._page_progress(content)
        self._lacking = {API + name for name in setup.missing}
        for name in setup.missing - {"info"}:
            for method in ("POST",) if name == "options" else ("GET", "POST"):
                table.pop((method, API + name), None)
        self._table = table

    def _gets(self, setup: Setup) -> dict[str, Callable[[], Any]]:
        shelf = self._studio.shelf
        return {
            "options": shelf.options,
            "cmd-flags": lambda: {"api": True, "nowebui": setup.nowebui, "no_hashing": not setup.hashing},
            "samplers": lambda: SAMPLERS,
            "schedulers": lambda: SCHEDULERS,
            "upscalers": lambda: UPSCALERS,
            "latent-upscale-modes": lambda: LATENT_UPSCALE_MODES,
            "sd-models": lambda: [one.listed() for one in shelf.checkpoints],
            "sd-vae": lambda: [{"model_name": name, "filename": f"{FOLDER}/VAE/{name}"} for name in setup.vaes],
            "loras": lambda: [_lora(name) for name in setup.loras],
            "prompt-styles": lambda: [
                {"name": name, "prompt": text, "negative_prompt": ""} for name, text in setup.styles
            ],
            "extensions": list,
            "hypernetworks": lambda: [{"name": name, "path": f"{FOLDER}/{name}.pt"} for name in setup.hypernetworks],
            "face-restorers": lambda: [{"name": name, "cmd_dir": None} for name in setup.restorers],
            "embeddings": lambda: {"loaded": {}, "skipped": {}},
            "scripts": lambda: SCRIPTS,
            "memory": lambda: _MEMORY,
        }

    def _posts(self) -> dict[str, Callable[[bytes], Any]]:
        return {
            "txt2img": lambda content: self._generate("txt2img", content),
            "img2img": lambda content: self._generate("img2img", content),
            "options": self._set_options,
            "interrupt": self._interrupt,
            "skip": self._skip,
            "refresh-checkpoints": self._refresh,
            "refresh-loras": lambda _: None,
            "refresh-vae": lambda _: None,
            "unload-checkpoint": lambda _: self._move(unload=True),
            "reload-checkpoint": lambda _: self._move(unload=False),
        }

    def find(self, method: str, path: str) -> Handler:
        """The handler of a request.

        Raises:
            RefusedError: 404, or 405 where only another method is known.
        """
        if handler := self._table.get((method, path)):
            return handler
        if path not in self._lacking and any(known == path for _, known in self._table):
            raise RefusedError(405, {"detail": "Method Not Allowed"})
        raise RefusedError(404, {"detail": "Not Found"})

    def _generate(self, kind: str, content: bytes) -> dict[str, Any]:
        self._double.enter()
        try:
            body = read_document(content)
            self._double.requests.append((API + kind, body))
            self._studio.journal.write("arrived", path=kind, prompt=body.get("prompt"))
            answer = self._studio.generate(kind, body)
        except (RefusedError, DroppedError, ClosingError) as error:
            self._studio.journal.write("ended", path=kind, error=type(error).__name__)
            raise
        else:
            self._studio.journal.write("ended", path=kind, prompt=body.get("prompt"), images=len(answer["images"]))
            return answer
        finally:
            self._double.leave()

    def _set_options(self, content: bytes) -> None:
        body = read_document(content)
        self._double.requests.append((API + "options", body))
        self._studio.set_options(body)

    def _progress(self, query: str, _: bytes) -> dict[str, Any]:
        self._double.polls += 1
        skip = parse_qs(query).get("skip_current_image", ["false"])[0].lower() in ("true", "1", "yes", "on")
        return self._studio.state.report(with_image=not skip)

    def _interrupt(self, _: bytes) -> dict[str, Any]:
        self._double.interrupts.append(self._studio.running)
        self._studio.interrupt()
        return {}

    def _skip(self, _: bytes) -> None:
        self._studio.state.skipped = True

    def _refresh(self, _: bytes) -> None:
        with self._studio.turns.turn():
            self._studio.shelf.refresh()

    def _move(self, *, unload: bool) -> dict[str, Any]:
        self._studio.journal.write("unload" if unload else "reload", running=self._studio.running)
        self._studio.shelf.unloaded = unload
        return {}

    def _page_progress(self, content: bytes) -> dict[str, Any]:
        wanted = read_document(content).get("id_task")
        if wanted is None:
            raise crash("TypeError", "unsupported operand type(s) for -: 'float' and 'NoneType'")
        return self._studio.tasks.report(wanted, self._studio.state)


def _lora(name: str) -> dict[str, Any]:
    return {"name": name, "alias": name, "path": f"{FOLDER}/Lora/{name}.safetensors", "metadata": {}}


class WebUIHandler(QuietHandler):
    """Answers as the routes have it, which are the server's double."""

    disable_nagle_algorithm = True  # else each answer waits for the acknowledgement of its head

    def do_GET(self) -> None:  # noqa: N802 (the name is the standard library's)
        self._answer("GET")

    def do_POST(self) -> None:  # noqa: N802 (as above)
        self._answer("POST")

    def _answer(self, method: str) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        try:
            self._check_user(address.path)
            document = self.server.double.find(method, address.path)(address.query, content)
        except RefusedError as error:
            self._send(error.status, error.document)
        except (DroppedError, ClosingError):
            self.close_connection = True
        else:
            self._send(200, document)

    def _check_user(self, path: str) -> None:
        expected = self.server.double.auth
        if expected is None or not path.startswith(API):
            return
        scheme, _, given = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() != "basic":
            raise http_error(401, "Not authenticated")
        if given != base64.b64encode(expected.encode()).decode():
            raise http_error(401, "Incorrect username or password")

    def _send(self, status: int, document: Any) -> None:
        body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status == 401:
            self.send_header("WWW-Authenticate", "Basic")
        if "gzip" in (self.headers.get("Accept-Encoding") or "") and len(body) >= _LEAST_GZIPPED:
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Vary", "Accept-Encoding")
        if self.close_connection:  # the real one says so, too, and its clients count on it
            self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
