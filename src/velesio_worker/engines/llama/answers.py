"""Whether an answer obeys the JSON schema that its job gave."""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

import anyio.to_thread
import orjson

from velesio_worker.wire.answer_schemas import Schema
from velesio_worker.wire.errors import BadJobError

_REGEX_BYTES: Final = 4 * 1024 * 1024
_JSON_BEGINS: Final = re.compile(
    r"\s*+(?:[\[{\"]|-?\d|-$|t(?:r(?:ue?)?)?\s*$|f(?:a(?:l(?:se?)?)?)?\s*$|n(?:u(?:ll?)?)?\s*$|$)"
)
_SHOWN: Final = 300


class AnswerCheck:
    """Compares an answer with a schema. Patterns take linear time, and nothing that a schema refers to is fetched.

    Both may take a moment and are done in a thread.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._validator: Any = None

    async def prepare(self) -> None:
        """Read the schema.

        Raises:
            BadJobError: it is none, or has a pattern that cannot be read.
        """
        await anyio.to_thread.run_sync(self._read)

    async def breach(self, text: str, finish_reason: str) -> str:
        """Say in a sentence what a text breaches; empty if it obeys, or is cut off and may be the beginning of that."""
        if finish_reason == "stop":
            return await anyio.to_thread.run_sync(self._breach, text)
        if finish_reason == "length" and not _JSON_BEGINS.match(text):
            return "The answer does not obey the JSON schema: it does not begin as JSON."
        return ""

    def _read(self) -> None:
        library: Any = importlib.import_module("jsonschema_rs")  # which only jobs with a schema need
        patterns = library.RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES)
        try:
            self._validator = library.validator_for(
                self._schema, retriever=_fetch_nothing, pattern_options=patterns, validate_formats=False
            )
        except ValueError as error:
            said = _said(error)
            raise BadJobError(f"The JSON schema cannot be enforced: {said}.", said=said) from None

    def _breach(self, text: str) -> str:
        try:
            answer = orjson.loads(text)
        except orjson.JSONDecodeError:
            return "The answer does not obey the JSON schema: it is no JSON."
        error = next(self._validator.iter_errors(answer), None)
        return "" if error is None else f"The answer does not obey the JSON schema: {_said(error)}."


def _fetch_nothing(uri: str) -> Any:  # noqa: ANN401 (any JSON)
    raise LookupError(uri)


def _said(error: Any) -> str:  # noqa: ANN401 (an error of a library without types)
    place = ".".join(map(str, getattr(error, "instance_path", [])))
    said = str(getattr(error, "message", error)).splitlines()[0][:_SHOWN]
    return f"{place}: {said}" if place else said
