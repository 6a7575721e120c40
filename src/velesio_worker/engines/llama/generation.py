"""What the runs of all text jobs on llama-server have in common: requests, streams, errors.

Source of the formats: llama.cpp, ``tools/server/README.md``. Every request is streamed, also for a job that is not,
since closing the connection is the only way to stop a generation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar, cast

import orjson

from velesio_worker.engines.base import Sink
from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.http import ANSWER_BYTES, ConnectionLostError, EngineHTTP, EngineResponse
from velesio_worker.engines.llama.answers import AnswerCheck
from velesio_worker.engines.llama.budget import Budget
from velesio_worker.engines.llama.lines import JOBS
from velesio_worker.engines.llama.refusals import OK, decode_refusal
from velesio_worker.engines.llama.requests import ask, engine_errors, error_in
from velesio_worker.engines.llama.sse import SSEDecoder
from velesio_worker.engines.llama.stops import Choice, StopStrings
from velesio_worker.wire.answer_schemas import for_engine
from velesio_worker.wire.errors import (
    ContextExceededError,
    EngineCrashedError,
    EngineRefusedError,
    JobError,
)
from velesio_worker.wire.events import Done, Progress, has_output
from velesio_worker.wire.fields import count_in, known_object, numbers_in
from velesio_worker.wire.text_parameters import UNLIMITED, WHOLE_CONTEXT, TextParameters
from velesio_worker.wire.transcript import Transcript

CANCELLED: Final = "cancelled"
_DONE_MARK: Final = b"[DONE]"
_LOOK_BACK: Final = frozenset({"repeat_last_n", "dry_penalty_last_n"})

P = TypeVar("P", bound=TextParameters)


class LlamaGeneration(ABC, Generic[P]):
    """One request, from its body to its result.

    Args:
        http: the server.
        parameters: the job's.
        context: how many tokens its context has.
        after: the text that an earlier attempt made, from which this one goes on; it counts as this run's own.
        pieces: in how many pieces that came; it has at least so many tokens.
        largest: how many bytes its result may have (``MAX_RESULT_BYTES``); it ends as soon as there are more.

    Attributes:
        warnings: what is not done as asked, in sentences.
    """

    path: str
    chat = False

    def __init__(
        self,
        http: EngineHTTP,
        parameters: P,
        context: int,
        after: str = "",
        pieces: int = 0,
        *,
        largest: int = ANSWER_BYTES,
    ) -> None:
        self._http = http
        self._context = context
        self._parameters = parameters
        self._after = after
        self._tokens_before = pieces
        self._tokens_again = 0
        self._prompt_told: int | None = None
        self._transcript = Transcript(after)
        self._finish_reason: str | None = None
        self._usage: dict[str, Any] | None = None
        self._timings: dict[str, Any] | None = None
        self._prompt_in_parts = False
        self._marked_done = False
        self._failure: JobError | None = None
        self._decoder = SSEDecoder()
        self._sink: Sink
        self._budget = Budget(largest, context)
        self._stops = StopStrings(parameters.stop) if isinstance(parameters.stop, list) else None
        schema = parameters.answer_schema
        self._check = None if schema is None else AnswerCheck(schema)
        self.warnings: list[str] = []
        self._heard = self._transcript if self._stops is None else Transcript()  # with what is held back, and cut off

    @abstractmethod
    def request(self) -> dict[str, Any]:
        """Return the request's body."""

    @abstractmethod
    def plain(self, chunk: dict[str, Any]) -> tuple[str, Choice] | None:
        """Return the text and the choice of a chunk that holds a piece of text and nothing else; None of any other."""

    @abstractmethod
    def take(self, chunk: dict[str, Any]) -> Choice | None:
        """Take one chunk of the stream; return the choice that is to be published of it.

        Raises:
            ValueError: a field is not of the type that llama-server gives it.
        """

    async def run(self, sink: Sink) -> Done:
        """Run the request; see :meth:`velesio_worker.engines.base.Generation.run`."""
        self._sink = sink
        with JOBS.running(), engine_errors():
            if self._after and await self._is_whole():
                return self.cut_short("length")
            if self._check is not None:
                await self._check.prepare()
            async with self._http.post(self.path, orjson.dumps(self.request())) as response:
                if response.status != OK:
                    raise self._refused(*await error_in(response))
                return await self._read(response)

    async def _is_whole(self) -> bool:
        """Have the tokens of the text to go on from counted; returns whether it may have no more."""
        answer = await ask(self._http, "/tokenize", {"content": self._after})
        tokens: Any = cast("dict[str, Any]", answer).get("tokens") if isinstance(answer, dict) else None
        told = isinstance(tokens, list)
        self._tokens_again = len(cast("list[Any]", tokens)) if told else self._tokens_before
        self._tokens_before = max(self._tokens_before, self._tokens_again)
        return self._tokens_left() == 0

    def _tokens_left(self) -> int:
        """How many tokens the run may still make."""
        most = self._parameters.max_tokens
        return most if most == UNLIMITED else max(most - self._tokens_before, 0)

    def _refused(self, status: int, body: object) -> JobError:
        error = decode_refusal(status, body)
        if isinstance(error, ContextExceededError):
            self._prompt_told = error.prompt_tokens
        return error

    async def _read(self, response: EngineResponse) -> Done:
        self._budget.allow(self._tokens_left())
        try:
            await response.push(self._feed, self._more)
        except ConnectionLostError:  # which is no loss after the end of the text
            if self._finish_reason is None:
                raise
        if self._finish_reason is None:
            raise EngineCrashedError("llama-server ended its answer before the end of the text.")
        self._tell_rest()
        if self._check is not None and (breach := await self._check.breach(self._transcript.text, self._finish_reason)):
            self.warnings.append(breach)
        return self.cut_short(self._finish_reason)

    def _feed(self, read: bytes) -> bool:
        """Take what one read brought; False once nothing that matters follows, or where there is no room for more.

        What comes before an error is still told.
        """
        try:
            for data in self._decoder.feed(read):
                if data == _DONE_MARK:
                    self._marked_done = True
                else:
                    self._take_event(data)
                if self._marked_done:
                    break
        except JobError as error:
            self._tell_rest()
            self._failure = error
        return self._sink.heard() and self._failure is None and not self._complete()

    async def _more(self) -> bool:
        """Wait for room; returns whether anything more is wanted."""
        await self._sink.room()
        if self._failure is not None:
            raise self._failure
        return not self._complete()

    def _complete(self) -> bool:
        """Whether nothing that matters follows."""
        return self._marked_done or (self._finish_reason is not None and self._usage is not None)

    def _cut(self, stops: StopStrings, choice: Choice) -> None:
        """Tell what may be told, where a choice may be the beginning of a stop string; one ends the answer."""
        said = stops.add(choice)
        if stops.found:
            timings = self._timings or {}
            read, cached = count_in(timings, "prompt_n"), count_in(timings, "cache_n")
            self._take_usage(None if read is None else read + (cached or 0), count_in(timings, "predicted_n"))
            self._finish_reason, self._marked_done = "stop", True
        self._tell(said)

    def _tell(self, choices: Sequence[Choice]) -> None:
        for choice in choices:
            self._transcript.add(choice)
            self._sink.token(choice, has_output=has_output(choice))

    def _tell_rest(self) -> None:
        """Tell what is held back still, of which no stop string has come."""
        if self._stops is not None:
            self._tell(self._stops.rest())

    def _take_event(self, data: bytes) -> None:
        """Take one event of the stream, and tell what it says."""
        chunk = decode_json(data)
        if not isinstance(chunk, dict):
            raise EngineRefusedError("llama-server sent what is no JSON object, or is nested too deep.")
        body = cast("dict[str, Any]", chunk)
        if self._stops is None and (plain := self.plain(body)) is not None:  # of nearly all tokens that is all
            text, choice = plain
            self._transcript.say(text)
            last = self._budget.spend_text(len(text), self._transcript.pieces)
            self._sink.token(choice, has_output=True)
        elif (told := self._choice_in(body)) is not None:
            last = self._budget.spend(data, told, self._heard.pieces)
            if self._stops is None:
                self._sink.token(told, has_output=has_output(told))
            else:
                self._cut(self._stops, told)
        else:
            return
        if last:
            self._finish_reason, self._marked_done = self._finish_reason or "length", True

    def _choice_in(self, body: dict[str, Any]) -> Choice | None:
        """Take an event's document; return the choice that is to be published of it, if there is any."""
        if "error" in body or ("code" in body and "message" in body):
            raise self._refused(500, body if "error" in body else {"error": body})
        try:
            if "prompt_progress" in body and (progress := known_object(body, "prompt_progress")):
                self._take_progress(progress)
                return None
            if self._stops is not None and "timings" in body:
                self._timings = numbers_in(body, "timings")
            return self.take(body)
        except ValueError as error:
            raise EngineRefusedError(f"llama-server's answer is not in its usual form: {error}.") from None
        except (TypeError, LookupError, AttributeError) as error:
            what = type(error).__name__
            raise EngineRefusedError(f"llama-server's answer is not in its usual form ({what}).") from error

    def _take_progress(self, progress: dict[str, Any]) -> None:
        """Tell of a prompt that is read in several parts; a short one has nothing to tell."""
        processed, total = count_in(progress, "processed"), count_in(progress, "total")
        cached = count_in(progress, "cache") or 0
        if processed is None or total is None:
            return
        if cached < processed < total:
            self._prompt_in_parts = True
        if processed <= cached or not self._prompt_in_parts or not self._budget.tells(whole=processed >= total):
            return
        self._sink.tell(Progress({"stage": "prompt", "processed": processed, "total": total}))

    def cut_short(self, finish_reason: str = CANCELLED) -> Done:
        """Return the end of a job as it stands, be it that of its text or not."""
        unsaid = [] if self._stops is None else self._stops.rest()
        for choice in unsaid:
            self._transcript.add(choice)
        if self._usage is None and finish_reason != CANCELLED:
            self._take_usage(self._prompt_told, None)
        result = self._transcript.result(finish_reason, self._usage, self._timings, chat=self.chat)
        if self.warnings:
            result["warnings"] = self.warnings
        return Done(result, finish_reason, self._usage, self._timings, unsaid)

    def _take_usage(self, prompt: int | None, completion: int | None) -> None:
        """Take the server's count of the request's tokens; to the job, those of an earlier attempt are no prompt.

        Where the server does not count, the pieces that it sent are the count, and the prompt's is not known.
        """
        made = self._heard.pieces if completion is None else completion
        completion = self._tokens_before + made
        prompt = None if prompt is None else max(prompt - self._tokens_again, 0)
        self._usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": None if prompt is None else prompt + completion,
        }

    def _request(self) -> dict[str, Any]:
        """What both requests have in common: the parameters that go to the server as they are, and how it answers."""
        given = self._parameters.given("stream", "max_tokens", "stop")
        if self._stops is not None:
            given["timings_per_token"] = True  # an answer that is cut has no end that would tell them
        if "json_schema" in given:
            given["json_schema"] = for_engine(given["json_schema"])
        for name in _LOOK_BACK & given.keys():
            if given[name] == WHOLE_CONTEXT:  # which some builds of llama-server know, and others refuse
                given[name] = self._context
        return given | {"stream": True, "return_progress": True}
