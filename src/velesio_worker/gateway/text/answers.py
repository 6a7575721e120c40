"""From results and streams to llama-server's own forms of an answer, a frame and an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from velesio_worker.gateway.errors import ApiError, reads_results
from velesio_worker.wire.events import DONE, START, TOKEN, StreamEvent

_STOP_TYPES: Final = {"stop": "eos", "length": "limit"}
_PROBABILITIES: Final = "completion_probabilities"
_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "unavailable_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error in llama-server's form."""
    kind = "exceed_context_size_error" if error.code == "context_length_exceeded" else None
    kind = kind or _KINDS.get(error.status, "server_error")
    return {"error": {"code": error.status, "message": error.message, "type": kind}}


@reads_results
def completion_answer(index: int, data: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to one prompt.

    Args:
        index: which of the request's prompts it is.
        data: the data of its job.
        result: the job's result.
    """
    text: str = result.get("text") or ""
    answer: dict[str, Any] = {"index": index, "content": text, "tokens": [], "id_slot": -1, "stop": True}
    answer |= _end(data, result, data.get("model"), text)
    if (probabilities := result.get(_PROBABILITIES)) is not None:
        answer[_PROBABILITIES] = probabilities
    return answer


def _end(data: Mapping[str, Any], end: Mapping[str, Any], model: str | None, text: str) -> dict[str, Any]:
    """Return what stands at the end of an answer, from a result or a ``done`` entry.

    Which slot it was, and which word stopped it, the worker does not tell; what the engine's own settings were neither:
    ``generation_settings`` has those that were given.
    """
    usage: Mapping[str, Any] = end.get("usage") or {}
    return {
        "model": model,
        "tokens_predicted": usage.get("completion_tokens"),
        "tokens_evaluated": usage.get("prompt_tokens"),
        "generation_settings": {name: value for name, value in data.items() if name not in {"prompt", "defaults"}},
        "prompt": data["prompt"],
        "has_new_line": "\n" in text,
        "truncated": False,
        "stop_type": _STOP_TYPES.get(end.get("finish_reason") or "", "none"),
        "stopping_word": "",
        "timings": end.get("timings"),
    }


class _Answer:
    """What has been sent of the answer to one prompt."""

    def __init__(self) -> None:
        self.pieces = 0
        self.has_new_line = False
        self.model: str | None = None


class CompletionFrames:
    """Turns the streams of ``completion`` jobs into frames as llama-server sends them. There is no ``[DONE]``.

    Args:
        datas: the data of each job, in the order of the request's prompts.
    """

    def __init__(self, datas: Sequence[Mapping[str, Any]]) -> None:
        self._datas = datas
        self._answers = [_Answer() for _ in datas]

    def feed(self, index: int, event: StreamEvent) -> bytes:
        """Return the frames that an entry is.

        Raises:
            ApiError: the text that was sent is void.
        """
        answer = self._answers[index]
        match event.event:
            case _ if event.event == START:
                if event.data.get("mode") == "restart" and answer.pieces:
                    raise ApiError(502, "worker_lost", "The worker was lost and the answer began anew: ask again.")
                answer.model = event.data.get("model") or answer.model
                return b""
            case _ if event.event == TOKEN:
                return b"".join(self._piece(index, choice) for choice in event.data.get("choices") or ())
            case _ if event.event == DONE:
                return self._last(index, event.data)
            case _:
                return b""

    def _piece(self, index: int, choice: Mapping[str, Any]) -> bytes:
        answer = self._answers[index]
        answer.pieces += 1
        text: str = choice.get("text") or ""
        answer.has_new_line = answer.has_new_line or "\n" in text
        chunk: dict[str, Any] = {"index": index, "content": text, "tokens": [], "stop": False, "id_slot": -1}
        chunk |= {"tokens_predicted": answer.pieces, "tokens_evaluated": 0}
        if (probabilities := choice.get(_PROBABILITIES)) is not None:
            chunk[_PROBABILITIES] = probabilities
        return _frame(chunk)

    def _last(self, index: int, done: Mapping[str, Any]) -> bytes:
        answer = self._answers[index]
        chunk: dict[str, Any] = {"index": index, "content": "", "tokens": [], "id_slot": -1, "stop": True}
        text = "\n" if answer.has_new_line else ""
        return _frame(chunk | _end(self._datas[index], done, answer.model, text))

    def end(self) -> bytes:
        """Return nothing: each job's last frame has said that it is over."""
        return b""

    def error(self, error: ApiError) -> bytes:
        """Return the frame of an error in mid-stream, after which nothing follows."""
        return _frame(error_body(error))


def _frame(chunk: Mapping[str, Any]) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(chunk)
