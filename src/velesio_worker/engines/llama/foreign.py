"""A llama-server that somebody else runs, who may put another in its place at any time: it is looked at again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import orjson

from velesio_worker.core.logs import get_logger
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import Serving
from velesio_worker.engines.http import LIST_BYTES, ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties, properties_in, read_properties
from velesio_worker.engines.llama.server import LOADING, asked, serving_of
from velesio_worker.engines.supervision.liveness import Reported
from velesio_worker.wire.errors import EngineRefusedError, EngineStartError
from velesio_worker.wire.fields import known_object

_LOOK_SECONDS: Final = 2.0
"""How long a server may take to say what it is."""

ContentOf = Callable[[Path], str | None]
"""Returns what tells a file's content from others; None if there is no such file."""

log = get_logger(__name__)


class ForeignServer:
    """What a server was when it became ready, and whether it is that still.

    Args:
        http: the server.
        properties: what it says of itself.
        weights: what tells its model from others of the same name (:func:`weights_of`).
        content_of: tells files from each other.
    """

    def __init__(self, http: EngineHTTP, properties: LlamaProperties, weights: str, content_of: ContentOf) -> None:
        self.properties = properties
        self.reported = Reported()
        self._http = http
        self._weights = weights
        self._content_of = content_of
        self._processes = {properties.process}
        self._one_at_a_time = anyio.Lock()
        self._looked_at = anyio.current_time()
        self._found: str | None = ""

    @property
    def identity(self) -> str:
        """What tells its answers from those of others."""
        return hashlib.sha256(orjson.dumps([self.properties.told, self._weights])).hexdigest()

    async def look(self, age: float) -> str | None:
        """Ask it what it is; see :class:`velesio_worker.engines.base.Serving`."""
        wanted = anyio.current_time() - age
        if self._looked_at >= wanted and not self._one_at_a_time.locked():
            return self._found
        async with self._one_at_a_time:
            if self._looked_at < wanted:
                self._looked_at = anyio.current_time()
                self._found = await self._asked_again()
        return self._found

    async def _asked_again(self) -> str | None:
        try:
            seen = properties_in(*await self._http.get("/props", timeout=_LOOK_SECONDS, keep=False))
            if seen is not None:
                return await self._difference(seen)
        except ConnectionLostError:
            return None  # whoever works with it will find out
        except EngineRefusedError:
            pass
        self.reported.set()
        return None

    async def _difference(self, seen: LlamaProperties) -> str:
        """Say what it is now; empty if that is what it was. A process that was seen before has the same model."""
        same = seen.told == self.properties.told
        if same and seen.process and seen.process in self._processes:
            return ""
        weights = await weights_of(self._http, seen, self._content_of)
        if same and weights == self._weights:
            self._processes.add(seen.process)
            return ""
        return f"was exchanged: it is {seen.model} now, with {seen.slots} slots of {seen.context_length} tokens"

    async def gone(self) -> str:
        """Wait until it does not serve any more; returns what happened to it."""
        while True:
            await self.reported.wait()
            try:
                if await read_properties(self._http) is None:
                    return "loads its model again"
            except (ConnectionLostError, EngineRefusedError):
                return "does not answer any more"


async def weights_of(http: EngineHTTP, seen: LlamaProperties, content_of: ContentOf) -> str:
    """Return what tells a server's model from others of the same name: its sizes, and its file if that is here.

    Raises:
        ConnectionLostError: it does not answer.
    """
    _, models = await http.get("/v1/models", timeout=_LOOK_SECONDS, limit=LIST_BYTES, keep=False)
    listed = cast("dict[str, Any]", models).get("data") if isinstance(models, dict) else None
    first = cast("list[Any]", listed)[0] if isinstance(listed, list) and listed else None
    meta = known_object(cast("dict[str, Any]", first), "meta") if isinstance(first, dict) else None
    content = await anyio.to_thread.run_sync(content_of, Path(seen.path))
    return orjson.dumps([meta, content], option=orjson.OPT_SORT_KEYS).decode()


@contextlib.asynccontextmanager
async def foreign_server(
    settings: Settings, url: str, content_of: ContentOf, on_trouble: Callable[[str], None]
) -> AsyncGenerator[Serving[LlamaEngine], None]:
    """Wait until the server at ``url`` answers, however long that takes; ``on_trouble`` is told why it does not.

    Raises:
        EngineStartError: what answers is no llama-server.
    """
    shown = hide_password(url)
    async with EngineHTTP(url, api_key=settings.llama_api_key, ca_file=settings.ca_file) as http:
        server = await _until_it_answers(http, shown, content_of, on_trouble)
        properties = server.properties
        log.info(
            f"llama-server at {shown} is ready: {properties.model}, {properties.slots} slots of "
            f"{properties.context_length} tokens",
            action="engine_ready",
        )
        engine = LlamaEngine(http, properties, server.identity, settings.max_logprobs, settings.max_result_bytes)
        yield serving_of(settings, engine, server.gone, server.reported.set, None, server.look)


async def _until_it_answers(
    http: EngineHTTP, shown: str, content_of: ContentOf, on_trouble: Callable[[str], None]
) -> ForeignServer:
    said = ""
    while True:
        try:
            answer = await asked(http)
            if isinstance(answer, LlamaProperties):
                return ForeignServer(http, answer, await weights_of(http, answer, content_of), content_of)
        except EngineRefusedError as error:
            raise EngineStartError(
                f"LLAMA_SERVER_URL={shown}: {error}", final=True, public=f"LLAMA_SERVER_URL: {error}"
            ) from None
        except ConnectionLostError as error:
            answer = f"does not answer ({error})"
        if answer != said:
            said = answer
            on_trouble(f"llama-server at {shown} {answer}")
            remedy = "" if answer == LOADING else ": start it there, or correct LLAMA_SERVER_URL"
            log.warning(f"llama-server at {shown} {answer}{remedy}; trying again", action="engine_absent")
        await anyio.sleep(1)
