"""``/v1/rerank``, as Jina and Cohere have it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from velesio_worker.gateway.bodies import ListOf
from velesio_worker.gateway.errors import ApiError, reads_results
from velesio_worker.gateway.live import Part
from velesio_worker.gateway.openai.fields import Body


class Document(Body):
    """A document that is an object, as Cohere and Jina have it."""

    text: str


class RerankBody(Body):
    """The body of a request that has documents put in order."""

    model: str | None = None
    query: str
    documents: Annotated[ListOf[str | Document], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    def part(self, model: str | None) -> Part:
        """Return the job."""
        data: dict[str, Any] = {"query": self.query, "documents": self.texts, "defaults": "engine"}
        data |= self.given(("top_n",))
        return "rerank", data if model is None else data | {"model": model}


@reads_results
def rerank_answer(answer_id: str, model: str, body: RerankBody, result: dict[str, Any]) -> dict[str, Any]:
    """Return the documents in order, the best first.

    Raises:
        ApiError: the job was cancelled.
    """
    if "results" not in result:
        raise ApiError(499, "cancelled", "The request was cancelled before its end.")
    ranked = sorted(result["results"], key=lambda one: one["relevance_score"], reverse=True)[: body.top_n]
    found: list[dict[str, Any]] = [{"index": one["index"], "relevance_score": one["relevance_score"]} for one in ranked]
    if body.return_documents:
        texts = body.texts
        found = [one | {"document": {"text": texts[one["index"]]}} for one in found]
    usage: dict[str, Any] = result.get("usage") or {}
    read = usage.get("prompt_tokens") or 0
    return {
        "id": answer_id,
        "object": "list",
        "model": model,
        "results": found,
        "usage": {"prompt_tokens": read, "total_tokens": usage.get("total_tokens") or read},
    }
