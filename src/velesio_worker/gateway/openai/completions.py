"""``/v1/completions``: what jobs a body becomes, and what whole answer their results become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from velesio_worker.gateway.errors import reads_results
from velesio_worker.gateway.jobs import MOST_JOBS
from velesio_worker.gateway.live import Part
from velesio_worker.gateway.openai.chat import warnings_of
from velesio_worker.gateway.openai.errors import check_end, refused
from velesio_worker.gateway.openai.fields import TextBody, Texts, each_of, passed_on
from velesio_worker.gateway.openai.logprobs import legacy_logprobs
from velesio_worker.gateway.openai.usage import UsageCount
from velesio_worker.wire.text_parameters import CompletionParameters

_TAKEN: Final = passed_on(CompletionParameters, "prompt", "echo")


class CompletionBody(TextBody):
    """The body of a completion: of a text, of tokens, or of several of them."""

    prompt: Texts
    best_of: int | None = None
    echo: bool = False
    suffix: str | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or several."""
        return each_of(self.prompt)

    def parts(self, model: str) -> list[Part]:
        """Return the jobs: for each prompt one for each choice.

        Raises:
            ApiError: the body asks for what cannot be done.
        """
        self._check()
        data = self.text_data(_TAKEN) | {"model": model}
        if self.logprobs is not None:
            data["n_probs"] = max(self.logprobs, 1)  # 0 asks for those of the text itself, which come with the first
        return [self._part(prompt, data | self.seed_of(index)) for prompt in self.prompts for index in range(self.n)]

    def _part(self, prompt: str | list[int], data: dict[str, Any]) -> Part:
        if not self.suffix:
            return "completion", data | {"prompt": prompt}
        return "infill", data | {"input_prefix": prompt, "input_suffix": self.suffix}

    def _check(self) -> None:
        self.check_stream()
        prompts = self.prompts
        if len(prompts) * self.n > MOST_JOBS:
            raise refused("prompt", f"asks with n for more than {MOST_JOBS} answers at once: send fewer.")
        if self.best_of not in {None, self.n}:
            raise refused("best_of", "can only be the same as n: answers are not compared.")
        if self.echo and self.logprobs is not None:
            raise refused("echo", "cannot go with logprobs: the engine tells none of the prompt's own tokens.")
        if self.suffix and any(not isinstance(prompt, str) for prompt in prompts):
            raise refused("suffix", "needs a prompt that is text: what stands between two texts is written.")


@reads_results
def completion_answer(
    answer_id: str,
    created: int,
    model: str,
    body: CompletionBody,
    echoes: Sequence[str],
    results: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the answer that the results of a request's jobs come to.

    Args:
        answer_id: the id of the answer.
        created: when it was asked for, in Unix time.
        model: the model's name.
        body: the request.
        echoes: what each text begins with.
        results: those of the jobs, in their order.

    Raises:
        ApiError: one of them was cancelled.
    """
    usage = UsageCount(body.n)
    for index, result in enumerate(results):
        usage.add(index, result)
    answer: dict[str, Any] = {
        "id": answer_id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [
            _choice(index, echo, result, body.logprobs)
            for index, (echo, result) in enumerate(zip(echoes, results, strict=True))
        ],
        "usage": usage.told(),
    }
    return answer | warnings_of(results)


def _choice(index: int, echo: str, result: dict[str, Any], logprobs: int | None) -> dict[str, Any]:
    told = None
    if logprobs is not None:
        told, _ = legacy_logprobs(result.get("completion_probabilities") or [], logprobs)
    return {
        "index": index,
        "text": echo + (result.get("text") or ""),
        "logprobs": told,
        "finish_reason": check_end(result.get("finish_reason") or "stop"),
    }
