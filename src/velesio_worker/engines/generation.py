"""The runs of text jobs on llama-server: requests, streams, results.

Source of the formats: llama.cpp, ``tools/server/README.md``. Every request is streamed, also for a job that is not,
since closing the connection is the only way to stop a generation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Final, cast

import anyio
import orjson

from velesio_worker.engines.http import ConnectionLostError, EngineHTTP, NotReachedError, decode_json
from velesio_worker.engines.sse import EventTooLargeError, SSEDecoder
from velesio_worker.errors import (
    BadJobError,
    ContextExceededError,
    EngineCrashedError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    OutOfMemoryError,
)
from velesio_worker.events import Done, EngineEvent, Progress, Token
from velesio_worker.jobs import TextParameters

_END_SECONDS: Final = 1.0
"""How long the end of a body may take after the last event; then the connection is closed instead of kept."""

BUSY: Final = 503
"""llama-server's status while it loads its model."""

_REFUSALS: Final = frozenset({400, 404, 422, 501})
_DONE_MARK: Final = b"[DONE]"
_FINISH_REASONS: Final = {"limit": "length"}


class _LlamaGeneration(ABC):
    """One request, from its body to its result."""

    path: ClassVar[str]

    def __init__(self, http: EngineHTTP, parameters: TextParameters) -> None:
        self._http = http
        self._parameters = parameters
        self._pieces: list[str] = []
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self._timings: dict[str, Any] | None = None
        self._prompt_in_parts = False

    @abstractmethod
    def request(self) -> dict[str, Any]:
        """Return the request's body."""

    @abstractmethod
    def take(self, chunk: dict[str, Any]) -> EngineEvent | None:
        """Take one chunk of the stream; return what is to be published of it."""

    @abstractmethod
    def result(self, finish_reason: str) -> dict[str, Any]:
        """Return the job's result as it stands."""

    async def events(self) -> AsyncGenerator[Sequence[EngineEvent], None]:
        """Run the request; see :meth:`velesio_worker.engines.base.Generation.events`."""
        try:
            async with self._http.post(self.path, orjson.dumps(self.request())) as response:
                if response.status != 200:  # noqa: PLR2004
                    raise _refusal(response.status, decode_json(await response.body()))
                async with (
                    aclosing(self._until_lost(response.chunks())) as chunks,
                    aclosing(self._read(chunks)) as batches,
                ):
                    async for batch in batches:
                        yield batch
        except NotReachedError as error:
            raise EngineUnavailableError(f"llama-server cannot be reached ({error}).") from error
        except ConnectionLostError as error:
            raise EngineCrashedError(f"llama-server went away while the job ran ({error}).") from error
        except EventTooLargeError as error:
            raise EngineRefusedError(f"llama-server's answer is no event stream: {error}.") from error

    async def _read(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Sequence[EngineEvent], None]:
        decoder = SSEDecoder()
        async for chunk in chunks:
            batch: list[EngineEvent] = []
            failure = self._take_all(decoder.feed(chunk), batch)
            if batch:
                yield batch
            if failure is not None:
                raise failure
            if self._complete():
                break
        if self._finish_reason is None:
            raise EngineCrashedError("llama-server ended its answer before the end of the text.")
        with anyio.move_on_after(_END_SECONDS):
            async for _ in chunks:
                pass
        yield [self._done(self._finish_reason)]

    async def _until_lost(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield chunks; a connection that is lost after the end of the text is no loss."""
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        except ConnectionLostError:
            if self._finish_reason is None:
                raise

    def _take_all(self, events: Sequence[bytes], batch: list[EngineEvent]) -> JobError | None:
        """Take events into ``batch`` up to an error, if there is one; what came before it is still to be published."""
        try:
            for data in events:
                event = None if data == _DONE_MARK else self._event(data)
                if event is not None:
                    batch.append(event)
        except JobError as error:
            return error
        return None

    def _complete(self) -> bool:
        """Whether nothing that matters follows."""
        return self._finish_reason is not None and self._usage is not None

    def _event(self, data: bytes) -> EngineEvent | None:
        chunk = decode_json(data)
        if not isinstance(chunk, dict):
            raise EngineRefusedError("llama-server sent what is no JSON object.")
        body = cast("dict[str, Any]", chunk)
        if "error" in body or ("code" in body and "message" in body):
            raise _refusal(500, body if "error" in body else {"error": body})
        if progress := body.get("prompt_progress"):
            return self._progress(progress)
        return self.take(body)

    def _progress(self, progress: dict[str, Any]) -> Progress | None:
        """Report a prompt that is read in several parts; a short one has nothing to report."""
        processed, total, cached = progress["processed"], progress["total"], progress.get("cache", 0)
        if cached < processed < total:
            self._prompt_in_parts = True
        if processed > cached and self._prompt_in_parts:
            return Progress({"stage": "prompt", "processed": processed, "total": total})
        return None

    def _done(self, finish_reason: str) -> Done:
        return Done(self.result(finish_reason), finish_reason, self._usage, self._timings)

    def cut_short(self) -> Done:
        """Return the end of a job that was cancelled."""
        return self._done("cancelled")

    def _sampling(self) -> dict[str, Any]:
        """The parameters that go to the server as they are."""
        return self._parameters.model_dump(exclude_none=True, exclude={"stream", "max_tokens"})

    def _base_result(self, finish_reason: str) -> dict[str, Any]:
        return {
            "text": "".join(self._pieces),
            "finish_reason": finish_reason,
            "usage": self._usage,
            "timings": self._timings,
        }


class CompletionGeneration(_LlamaGeneration):
    """A ``completion`` job on ``/completion``."""

    path = "/completion"

    def __init__(self, http: EngineHTTP, parameters: TextParameters) -> None:
        super().__init__(http, parameters)
        self._probabilities: list[Any] = []

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        return self._sampling() | {
            "n_predict": self._parameters.max_tokens,
            "stream": True,
            "return_progress": True,
        }

    def take(self, chunk: dict[str, Any]) -> Token | None:
        """Take one chunk."""
        text: str = chunk.get("content") or ""
        if chunk.get("stop"):
            prompt, completion = chunk.get("tokens_evaluated", 0), chunk.get("tokens_predicted", 0)
            self._usage = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
            self._timings = chunk.get("timings")
            self._finish_reason = _FINISH_REASONS.get(chunk.get("stop_type", ""), "stop")
        probabilities: list[Any] = [] if chunk.get("stop") else chunk.get("completion_probabilities") or []
        if not text and not probabilities:
            return None
        self._pieces.append(text)
        choice: dict[str, Any] = {"text": text, "index": 0, "finish_reason": None}
        if probabilities:
            self._probabilities.extend(probabilities)
            choice["completion_probabilities"] = probabilities
        return Token({"choices": [choice]})

    def result(self, finish_reason: str) -> dict[str, Any]:
        """Return the job's result as it stands."""
        result = self._base_result(finish_reason)
        if self._probabilities:
            result["completion_probabilities"] = self._probabilities
        return result


class ChatGeneration(_LlamaGeneration):
    """A ``chat_completion`` job on ``/v1/chat/completions``."""

    path = "/v1/chat/completions"

    def __init__(self, http: EngineHTTP, parameters: TextParameters) -> None:
        super().__init__(http, parameters)
        self._reasoning: list[str] = []
        self._tool_calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[Any] = []

    def request(self) -> dict[str, Any]:
        """Return the request's body."""
        return self._sampling() | {
            "max_tokens": self._parameters.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }

    def take(self, chunk: dict[str, Any]) -> Token | None:
        """Take one chunk."""
        if usage := chunk.get("usage"):
            self._usage = {name: usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        self._timings = chunk.get("timings") or self._timings
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        if not choices:
            return None
        choice = choices[0]
        delta: dict[str, Any] = choice.get("delta") or {}
        self._take_delta(delta)
        logprobs: dict[str, Any] | None = choice.get("logprobs")
        if logprobs:
            self._logprobs.extend(logprobs.get("content") or [])
        if reason := choice.get("finish_reason"):
            self._finish_reason = reason
        if not delta:
            return None
        return Token({"choices": [choice | {"finish_reason": None}]})

    def _complete(self) -> bool:
        # The usage follows in a chunk of its own, and [DONE] after it: the body is read to its end.
        return False

    def _take_delta(self, delta: dict[str, Any]) -> None:
        self._pieces.append(delta.get("content") or "")
        self._reasoning.append(delta.get("reasoning_content") or "")
        for fragment in delta.get("tool_calls") or ():
            call = self._tool_calls.setdefault(
                fragment.get("index", 0), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            call["id"] = fragment.get("id") or call["id"]
            function: dict[str, Any] = fragment.get("function") or {}
            for name in ("name", "arguments"):
                call["function"][name] += function.get(name) or ""

    def result(self, finish_reason: str) -> dict[str, Any]:
        """Return the job's result as it stands."""
        result = self._base_result(finish_reason)
        message: dict[str, Any] = {"role": "assistant", "content": result["text"]}
        if reasoning := "".join(self._reasoning):
            message["reasoning_content"] = reasoning
        if self._tool_calls:
            message["tool_calls"] = [call for _, call in sorted(self._tool_calls.items())]
        result["message"] = message
        if self._logprobs:
            result["logprobs"] = {"content": self._logprobs}
        return result


def _refusal(status: int, body: object) -> JobError:
    """Return the error that stands for an error answer of llama-server."""
    error = cast("dict[str, Any]", body).get("error") if isinstance(body, dict) else None
    fields: dict[str, Any] = cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": error}
    message = str(fields.get("message") or f"status {status}")
    kind = fields.get("type")
    if kind == "exceed_context_size_error":
        return ContextExceededError(
            f"The prompt has {fields.get('n_prompt_tokens')} tokens, but a job's context has {fields.get('n_ctx')}: "
            "shorten the prompt or raise CONTEXT_SIZE."
        )
    if "context size" in message.lower():
        return ContextExceededError(
            f"llama-server ran out of context ({message}): shorten the prompt, lower max_tokens or raise CONTEXT_SIZE."
        )
    if "out of memory" in message.lower():
        return OutOfMemoryError(f"llama-server: {message}. Lower GPU_LAYERS, CONTEXT_SIZE or LLM_CONCURRENCY.")
    if status == BUSY or kind == "unavailable_error":
        return EngineUnavailableError(f"llama-server is not ready: {message}")
    if kind == "invalid_request_error" or status in _REFUSALS:
        return BadJobError(f"llama-server refuses the job: {message}")
    return EngineRefusedError(f"llama-server: {message}")
