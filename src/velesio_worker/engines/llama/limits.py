"""What llama-server has of each kind: a job that asks for more would be run without it, and nobody told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from velesio_worker.engines.http import EngineHTTP
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.fields import count_in, known_object
from velesio_worker.wire.text_parameters import TextParameters

_ANSWER_SECONDS: Final = 5.0
_TOKEN_ID: Final = re.compile(r"\s*([+-]?\d{1,12})")
"""What llama-server takes for a token's id where it is the name of a field; other names are texts."""


@dataclass(frozen=True, slots=True)
class LlamaLimits:
    """What a running llama-server has; None where it does not say.

    Attributes:
        vocabulary: how many tokens its model knows.
        adapters: the ids of its LoRA adapters.
    """

    vocabulary: int | None = None
    adapters: frozenset[int] | None = None

    def check(self, parameters: TextParameters, slots: int) -> None:
        """Compare a job's parameters with what there is, ``slots`` too.

        Raises:
            BadJobError: something is asked for that is not there.
        """
        if (parameters.id_slot or 0) >= slots:
            raise BadJobError(f"id_slot: llama-server has the slots 0 to {slots - 1}; -1 is any of them.")
        unknown = {adapter.id for adapter in parameters.lora or ()} - (self.adapters or set())
        if unknown and self.adapters is not None:
            there = f"has those with the ids {', '.join(map(str, sorted(self.adapters)))}"
            none = "has none: start the worker with LLAMA_ARGS='--lora FILE'"
            raise BadJobError(
                f"lora: there is no adapter {min(unknown)}: llama-server {there if self.adapters else none}."
            )
        prompt: Any = getattr(parameters, "prompt", None)
        self._check_tokens("prompt", cast("list[int]", prompt) if isinstance(prompt, list) else ())
        self._check_tokens("logit_bias", _biased(parameters.logit_bias or ()))

    def _check_tokens(self, name: str, tokens: Iterable[int]) -> None:
        most = self.vocabulary
        if most is not None and any(not 0 <= token < most for token in tokens):
            raise BadJobError(f"{name}: the model has {most} tokens: their ids are 0 to {most - 1}.")


def _biased(biases: Iterable[Any]) -> Iterable[int]:
    """Yield the token ids among biases, which are pairs, or the names of an object's fields."""
    for bias in biases:
        if isinstance(bias, str):
            if found := _TOKEN_ID.fullmatch(bias):
                yield int(found[1])
        elif isinstance(bias[0], int):
            yield bias[0]


async def read_limits(http: EngineHTTP) -> LlamaLimits:
    """Ask a llama-server that is ready what it has.

    Raises:
        ConnectionLostError: it does not answer.
    """
    _, models = await http.get("/v1/models", timeout=_ANSWER_SECONDS)
    _, adapters = await http.get("/lora-adapters", timeout=_ANSWER_SECONDS)
    listed = cast("dict[str, Any]", models).get("data") if isinstance(models, dict) else None
    first = (
        known_object({"model": cast("list[Any]", listed)[0]}, "model") if isinstance(listed, list) and listed else {}
    )
    vocabulary = count_in(known_object(first or {}, "meta") or {}, "n_vocab")
    if not isinstance(adapters, list):
        return LlamaLimits(vocabulary)
    known = [count_in(known_object({"one": one}, "one") or {}, "id") for one in cast("list[Any]", adapters)]
    return LlamaLimits(vocabulary, frozenset(one for one in known if one is not None))
