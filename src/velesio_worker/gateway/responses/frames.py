"""The events of a streamed response, and the response that is sent whole."""

from __future__ import annotations

from typing import Any

from velesio_worker.gateway.errors import ApiError, reads_results
from velesio_worker.gateway.pieces import PartFrames, Piece, frame, pieces_of_result
from velesio_worker.gateway.responses.request import ResponsesRequest
from velesio_worker.gateway.responses.response import Answer, Item, status_of


@reads_results
def response_of(body: ResponsesRequest, result: dict[str, Any]) -> dict[str, Any]:
    """Return the response of a job's result.

    Raises:
        ApiError: the job was cancelled.
    """
    made = Answer(body)
    for piece in pieces_of_result(result):
        made.open(piece).grow(piece)
    if not made.items:
        made.open(Piece("text", ""))  # clients look for a message
    return made.written(status_of(result), result)


class ResponseFrames(PartFrames):
    """Writes a job's entries as events of a response.

    Args:
        body: the request.
    """

    def __init__(self, body: ResponsesRequest) -> None:
        super().__init__()
        self._answer = Answer(body)
        self._said = 0

    @property
    def _item(self) -> Item:
        return self._answer.items[-1]

    def error(self, error: ApiError) -> bytes:
        """Return the end of a response that failed."""
        said = self._beginning()
        said += self._event("error", code=error.code, message=error.message, param=error.param)
        told = {"code": error.code, "message": error.message}
        return said + self._event("response.failed", response=self._answer.written("failed", error=told))

    def _begin(self) -> bytes:
        response = self._answer.written("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _open(self, piece: Piece) -> bytes:
        item = self._answer.open(piece)
        said = self._event("response.output_item.added", output_index=item.index, item=item.written("in_progress"))
        if item.kind == "reasoning":
            return said + self._of_item("reasoning_summary_part.added", part=item.part(empty=True))
        if item.kind == "text":
            return said + self._of_item("content_part.added", part=item.part(empty=True))
        return said

    def _grow(self, piece: Piece) -> bytes:
        self._item.grow(piece)
        if piece.kind == "reasoning":
            return self._of_item("reasoning_summary_text.delta", delta=piece.text)
        if piece.kind == "text":
            return self._of_item("output_text.delta", delta=piece.text, logprobs=piece.logprobs)
        return self._of_item("function_call_arguments.delta", delta=piece.text)

    def _close(self) -> bytes:
        return self._closed("incomplete" if status_of(self._done) == "incomplete" else "completed")

    def _closed(self, status: str) -> bytes:
        item = self._item
        if item.kind == "reasoning":
            said = self._of_item("reasoning_summary_text.done", text=item.text)
            said += self._of_item("reasoning_summary_part.done", part=item.part())
        elif item.kind == "text":
            said = self._of_item("output_text.done", text=item.text, logprobs=item.logprobs)
            said += self._of_item("content_part.done", part=item.part())
        else:
            said = self._of_item("function_call_arguments.done", arguments=item.text)
        return said + self._event("response.output_item.done", output_index=item.index, item=item.written(status))

    def _finish(self, done: dict[str, Any]) -> bytes:
        said = b""
        if not self._answer.items:
            said = self._open(Piece("text", "")) + self._close()
        status = status_of(done)
        return said + self._event(f"response.{status}", response=self._answer.written(status, done))

    def _of_item(self, name: str, **more: Any) -> bytes:  # noqa: ANN401 (any JSON)
        """Write an event about the item that is open, or about its only part."""
        place: dict[str, Any] = {"item_id": self._item.id, "output_index": self._item.index}
        if self._item.kind != "call":
            place["summary_index" if self._item.kind == "reasoning" else "content_index"] = 0
        return self._event(f"response.{name}", **place, **more)

    def _event(self, kind: str, **more: Any) -> bytes:  # noqa: ANN401 (any JSON)
        self._said += 1
        return frame({"type": kind, "sequence_number": self._said - 1, **more})
