"""llama-server (llama.cpp's HTTP server) as an engine of text jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from velesio_worker.engines.base import Generation
from velesio_worker.engines.chat import ChatGeneration
from velesio_worker.engines.completion import CompletionGeneration
from velesio_worker.engines.generation import BUSY
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.errors import BadJobError, EngineRefusedError
from velesio_worker.jobs import ChatCompletionParameters, CompletionParameters, Parameters

SERVER_ERRORS: Final = 500
_UNAUTHORISED: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class LlamaProperties:
    """What a running llama-server says of itself.

    Attributes:
        model: the model's name: its file name without the ending.
        context_length: tokens of context that one job has.
        slots: how many jobs it runs at a time.
    """

    model: str
    context_length: int
    slots: int


class LlamaEngine:
    """A llama-server that answers.

    Args:
        http: the client.
        properties: what the server says of itself.
    """

    def __init__(self, http: EngineHTTP, properties: LlamaProperties) -> None:
        self._http = http
        self.properties = properties

    @property
    def model(self) -> str:
        """The name of the model that is loaded."""
        return self.properties.model

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:
        """Return the run of a text job, not begun yet; see :meth:`velesio_worker.engines.base.Engine.generate`."""
        match parameters:
            case CompletionParameters():
                return CompletionGeneration(self._http, parameters, after, pieces)
            case ChatCompletionParameters():
                return ChatGeneration(self._http, parameters, after, pieces)
            case _:
                raise BadJobError("A text engine runs no image jobs.")


async def read_properties(http: EngineHTTP) -> LlamaProperties | None:
    """Ask a llama-server what it is; None while it loads its model.

    Raises:
        ConnectionLostError: it does not answer.
        EngineRefusedError: what answers is no llama-server.
    """
    status, _ = await http.get("/health", timeout=5)
    if status == BUSY:
        return None
    status, props = await http.get("/props", timeout=5)
    if status == BUSY:
        return None
    if status >= SERVER_ERRORS:
        raise ConnectionLostError(f"status {status}")
    try:
        return LlamaProperties(
            model=PurePath(props["model_path"]).stem,
            context_length=int(props["default_generation_settings"]["n_ctx"]),
            slots=int(props["total_slots"]),
        )
    except (KeyError, TypeError, ValueError):
        if status in _UNAUTHORISED:
            raise EngineRefusedError("it wants another API key: set LLAMA_API_KEY to the one it was given") from None
        raise EngineRefusedError(f"it answers /props with status {status}, which is not llama-server's way") from None
