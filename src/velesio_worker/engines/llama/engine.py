"""llama-server (llama.cpp's HTTP server) as an engine of text jobs."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final, cast

import orjson

from velesio_worker.engines.base import Generation
from velesio_worker.engines.http import ANSWER_BYTES, LIST_BYTES, SMALL_BYTES, ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama.limits import LlamaLimits
from velesio_worker.engines.llama.refusals import BUSY, OK
from velesio_worker.engines.llama.requests import engine_errors
from velesio_worker.engines.llama.runs import (
    AnswerGeneration,
    ChatGeneration,
    CompletionGeneration,
    CountGeneration,
    InfillGeneration,
)
from velesio_worker.engines.llama.template import left_out
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import BadJobError, EngineRefusedError
from velesio_worker.wire.fields import count_in, known_object, name_in
from velesio_worker.wire.parameters import AnswerParameters, Parameters
from velesio_worker.wire.template_parameters import CountTokensParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters, TextParameters

SERVER_ERRORS: Final = 500
MOST_SLOTS: Final = 1024
"""More than llama.cpp can have (``LLAMA_MAX_SEQ``); each takes a job, and a connection."""

LONGEST_CONTEXT: Final = 2**31

_ANSWER_SECONDS: Final = 5.0
_DECODED: Final = re.compile(r"^llamacpp:n_decode_total (\d+(?:\.\d+)?(?:e\+?\d+)?)$", re.MULTILINE)
_PROBE: Final = b'{"prompt":"a","n_predict":1,"cache_prompt":false,"temperature":0}'
_UNAUTHORISED: Final = frozenset({401, 403})
_SHAPING: Final = ("model_alias", "model_ftype", "chat_template", "bos_token", "eos_token", "modalities", "build_info")
_MARKER_OF_OLD: Final = "<__media__>"


@dataclass(frozen=True, slots=True)
class LlamaProperties:
    """What a running llama-server says of itself.

    Attributes:
        model: the model's name: its file name without the ending.
        context_length: tokens of context that one job has.
        slots: how many jobs it runs at a time.
        path: the model's file, as the server knows it.
        manner: a hash of what else shapes its answers: its template, its default parameters, its build.
        process: what tells one run of the program from another; empty where it does not say.
        template: what the model's chat template knows, by llama-server's names; empty where it does not say.
        template_text: the template itself; empty where it does not say.
        limits: what it has of other things that jobs name.
    """

    model: str
    context_length: int
    slots: int
    path: str = field(default="", compare=False)
    manner: str = field(default="", compare=False)
    process: str = field(default="", compare=False)
    template: Mapping[str, bool] = field(default_factory=dict[str, bool])
    template_text: str = field(default="", compare=False)
    limits: LlamaLimits = field(default=LlamaLimits(), compare=False)

    @property
    def told(self) -> tuple[str, int, int, str]:
        """All that makes a difference to jobs and their answers."""
        return self.path, self.context_length, self.slots, self.manner


class LlamaEngine:
    """A llama-server that answers.

    Args:
        http: where it is.
        properties: what it says of itself.
        identity: what tells a server that somebody else runs from others; empty for the worker's own.
        max_logprobs: for how many tokens at each place a job may ask for probabilities (``MAX_LOGPROBS``).
        largest: how many bytes a job's result may have (``MAX_RESULT_BYTES``).
    """

    def __init__(
        self,
        http: EngineHTTP,
        properties: LlamaProperties,
        identity: str = "",
        max_logprobs: int = 100,
        largest: int = ANSWER_BYTES,
    ) -> None:
        self._http = http
        self.identity = identity
        self.properties = properties
        self._max_logprobs = max_logprobs
        self._largest = largest
        self.model = properties.model

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:
        """Return the run of a text job, not begun yet; see :meth:`velesio_worker.engines.base.Engine.generate`."""
        http, context, largest = self._http, self.properties.context_length, self._largest
        if isinstance(parameters, TextParameters):
            if parameters.alternatives > self._max_logprobs:
                raise BadJobError(f"n_probs and top_logprobs are {self._max_logprobs} at most (MAX_LOGPROBS).")
            self.properties.limits.check(parameters, self.properties.slots)
        match parameters:
            case CompletionParameters():
                return CompletionGeneration(http, parameters, context, after, pieces, largest=largest)
            case InfillParameters():
                return InfillGeneration(http, parameters, context, after, pieces, largest=largest)
            case ChatCompletionParameters():
                unknown = left_out(parameters, self.properties.template)
                generation = ChatGeneration(http, parameters, context, after, pieces, largest=largest)
                generation.warnings += unknown
                generation.template = self.properties.template_text
                return generation
            case CountTokensParameters():
                return CountGeneration(http, parameters, self.model, largest=largest)
            case AnswerParameters():
                return AnswerGeneration(http, parameters, self.model, largest=largest)
            case _:
                raise BadJobError("A text engine runs no image jobs.")

    async def describe(self) -> dict[str, Any]:
        """Return what a ``model_info`` job says of the loaded model (wire protocol, section 5).

        Raises:
            EngineUnavailableError: llama-server does not say.
        """
        with engine_errors():
            _, models = await self._http.get("/v1/models", timeout=_ANSWER_SECONDS, limit=LIST_BYTES)
            _, props = await self._http.get("/props", timeout=_ANSWER_SECONDS)
        match models, props:
            case {"data": [dict(), *_]}, dict():
                meta = known_object(models["data"][0], "meta") or {}
                properties = cast("dict[str, Any]", props)
                modalities = known_object(properties, "modalities") or {}
            case _:
                raise EngineRefusedError("llama-server's answer to /v1/models is not in its usual form.")
        return {
            "name": self.model,
            "context_length": self.properties.context_length,
            "vocab_size": count_in(meta, "n_vocab"),
            "total_params": count_in(meta, "n_params"),
            "training_context_length": count_in(meta, "n_ctx_train"),
            "embedding_length": count_in(meta, "n_embd"),
            "size": count_in(meta, "size"),
            "slots": self.properties.slots,
            "modalities": sorted(name_in(name) for name, there in modalities.items() if there is True),
            "chat_template": bool(properties.get("chat_template")),
            "chat_template_caps": _template(properties),
        }

    async def decoded(self) -> float | None:
        """Return how often llama-server has called ``llama_decode`` so far; None if it does not tell (``--metrics``).

        Its loop answers, as it does for its slots, which are asked for instead then: whatever it says, it moves.

        Raises:
            TimeoutError: it does not answer.
        """
        try:
            status, text = await self._http.get_text("/metrics", timeout=_ANSWER_SECONDS)
            if status != OK:
                await self._http.get_text("/slots", timeout=_ANSWER_SECONDS)
        except ConnectionLostError as error:
            raise TimeoutError(str(error)) from error
        found = _DECODED.search(text) if status == OK else None
        count = float(found.group(1)) if found else math.inf
        return count if math.isfinite(count) else None  # else one look would be unlike the next for ever

    async def probe(self) -> None:
        """Have llama-server make one token; a refusal, too, shows that it works.

        Raises:
            JobError: it cannot be reached.
        """
        with engine_errors():
            async with self._http.post("/completion", _PROBE) as response:
                await response.body(SMALL_BYTES)


def _template(props: dict[str, Any]) -> dict[str, bool]:
    caps = known_object(props, "chat_template_caps") or {}
    return {name: known for name, known in caps.items() if isinstance(known, bool)}


async def read_properties(http: EngineHTTP) -> LlamaProperties | None:
    """Ask a llama-server what it is; None while it loads its model.

    Raises:
        ConnectionLostError: it does not answer.
        EngineRefusedError: what answers is no llama-server.
    """
    status, _ = await http.get("/health", timeout=5)
    if status == BUSY:
        return None
    return properties_in(*await http.get("/props", timeout=5))


def properties_in(status: int, props: object) -> LlamaProperties | None:
    """Read a llama-server's answer to ``/props``; otherwise as :func:`read_properties`."""
    if status == BUSY:
        return None
    if status >= SERVER_ERRORS:
        raise ConnectionLostError(f"status {status}")
    match props:
        case {"model_path": str(path), "default_generation_settings": dict(), "total_slots": int()}:
            said = cast("dict[str, Any]", props)
            slots, context = count_in(said, "total_slots"), count_in(said["default_generation_settings"], "n_ctx")
            if slots and slots <= MOST_SLOTS and context and context <= LONGEST_CONTEXT:
                name = name_in(PurePath(path).stem)
                text = said.get("chat_template")
                shown = text if isinstance(text, str) else ""
                return LlamaProperties(
                    name, context, slots, path, _manner(said), _process(said), _template(said), shown
                )
        case _:
            pass
    if status in _UNAUTHORISED:
        raise EngineRefusedError("it wants another API key: set LLAMA_API_KEY to the one it was given")
    raise EngineRefusedError(f"it answers /props with status {status}, which is not llama-server's way")


def _manner(props: dict[str, Any]) -> str:
    settings = known_object(props, "default_generation_settings") or {}
    shaping = [settings.get("params"), *(props.get(name) for name in _SHAPING)]
    return hashlib.sha256(orjson.dumps(shaping, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _process(props: dict[str, Any]) -> str:
    """Return the marker of media, which llama-server draws anew at each start; older builds have the same for ever."""
    marker = props.get("media_marker")
    return marker if isinstance(marker, str) and marker != _MARKER_OF_OLD else ""
