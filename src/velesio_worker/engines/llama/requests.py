"""Requests to a llama-server that have one answer, and what trouble with any request means for a job."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import orjson

from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.http import (
    ANSWER_BYTES,
    SMALL_BYTES,
    AnswerTooLargeError,
    ConnectionLostError,
    EngineHTTP,
    EngineResponse,
    NotReachedError,
    UnreadableAnswerError,
)
from velesio_worker.engines.llama.refusals import OK, decode_refusal
from velesio_worker.engines.llama.sse import EventTooLargeError
from velesio_worker.wire.errors import (
    EngineCrashedError,
    EngineRefusedError,
    EngineUnavailableError,
    ResultTooLargeError,
)


async def error_in(response: EngineResponse) -> tuple[int, Any]:
    """Return the status of an answer that is an error, and its body, decoded; None if that is no JSON or too large.

    Raises:
        ConnectionLostError: it broke off.
    """
    try:
        return response.status, decode_json(await response.body(SMALL_BYTES))
    except UnreadableAnswerError:
        return response.status, None


async def ask(http: EngineHTTP, path: str, fields: dict[str, Any], limit: int = ANSWER_BYTES) -> Any:  # noqa: ANN401 (JSON)
    """Return the answer to a request that is not streamed, of ``limit`` bytes at most; None if it is no JSON.

    Raises:
        JobError: the server refuses.
        ConnectionLostError: it does not answer.
    """
    async with http.post(path, orjson.dumps(fields)) as response:
        if response.status != OK:
            raise decode_refusal(*await error_in(response))
        return decode_json(await response.body(limit))


@contextlib.contextmanager
def engine_errors() -> Generator[None, None, None]:
    """Turn trouble with the connection, and with what came over it, into the job's error."""
    try:
        yield
    except NotReachedError as error:
        raise EngineUnavailableError(f"llama-server cannot be reached ({error}).") from error
    except AnswerTooLargeError as error:
        raise ResultTooLargeError(f"llama-server's answer is too large: {error}. Ask for less.") from error
    except UnreadableAnswerError as error:
        raise EngineRefusedError(f"llama-server's answer is not in its usual form: {error}.") from error
    except ConnectionLostError as error:
        raise EngineCrashedError("llama-server went away while the job ran.") from error
    except EventTooLargeError as error:
        raise EngineRefusedError(f"llama-server's answer is no event stream: {error}.") from error
