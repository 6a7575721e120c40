"""Chats of other dialects, put together as the messages of a chat job that any model's template takes.

Templates differ in what they bear: many refuse a second system message, two turns of one side in a row, or an image in
the result of a tool. What is here asks for none of these.
"""

from __future__ import annotations

from typing import Any, Final, cast

import orjson

from velesio_worker.gateway.errors import ApiError
from velesio_worker.wire.answer_schemas import Schema, lightened_tool

Part = dict[str, Any]
_BETWEEN: Final = "\n\n"


def text_part(text: str) -> Part:
    """Return a text as a part of a message."""
    return {"type": "text", "text": text}


def picture_part(url: str) -> Part:
    """Return a picture, a data URI, as a part of a message."""
    return {"type": "image_url", "image_url": {"url": url}}


def texts_in(parts: list[Part]) -> str:
    """Return the texts among parts, joined."""
    return _BETWEEN.join(part["text"] for part in parts if part["type"] == "text")


class Conversation:
    """Puts the messages of a chat together, turn by turn."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._pictures: list[Part] = []
        self._names: dict[str, str] = {}

    def system(self, text: str) -> None:
        """Add to the system's message; what comes later is said by the user, since templates have no place for it."""
        if not self._messages:
            self._messages.append({"role": "system", "content": text})
        elif len(self._messages) == 1 and self._messages[0]["role"] == "system":
            self._messages[0]["content"] += _BETWEEN + text
        else:
            self.user([text_part(text)])

    def user(self, parts: list[Part]) -> None:
        """Add something of the user's."""
        parts, self._pictures = [*self._pictures, *parts], []
        if self._messages and self._messages[-1]["role"] == "user":
            self._messages[-1]["content"] += parts
        elif parts:
            self._messages.append({"role": "user", "content": parts})

    def assistant(self, *, text: str = "", reasoning: str = "") -> None:
        """Add something of the model's."""
        message = self._answer()
        for name, more in (("content", text), ("reasoning_content", reasoning)):
            if more:
                message[name] = _BETWEEN.join(filter(None, (message.get(name, ""), more)))

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """Add a call of a tool by the model; ``arguments`` are JSON."""
        self._names[call_id] = name
        function = {"name": name, "arguments": arguments or "{}"}
        self._answer().setdefault("tool_calls", []).append({"id": call_id, "type": "function", "function": function})

    def result(self, call_id: str, parts: list[Part]) -> None:
        """Add what a tool said; its pictures are shown by the user once all tools have spoken."""
        message = {"role": "tool", "tool_call_id": call_id, "content": texts_in(parts)}
        if call_id in self._names:
            message["name"] = self._names[call_id]
        self._messages.append(message)
        self._pictures += [part for part in parts if part["type"] != "text"]

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages."""
        self.user([])
        if self._messages and self._messages[-1].keys() <= {"role", "content", "reasoning_content"}:
            last = self._messages[-1]
            if last["role"] == "assistant" and not last["content"]:
                self._messages.pop()  # a thought that nothing came of is not to be gone on with
        return [_told(message) for message in self._messages]

    def _answer(self) -> dict[str, Any]:
        if self._pictures:
            self.user([])
        if not self._messages or self._messages[-1]["role"] != "assistant":
            self._messages.append({"role": "assistant", "content": ""})
        return self._messages[-1]


def _told(message: dict[str, Any]) -> dict[str, Any]:
    parts = message["content"]
    if isinstance(parts, str):
        return message
    only_text = all(part["type"] == "text" for part in cast("list[Part]", parts))
    return {**message, "content": texts_in(parts) if only_text else parts}


class Given:
    """An object of a request, whose fields are read with their place in mind.

    Args:
        fields: the object.
        path: where it stands in the body, as ``messages.0``; empty for the body itself.
    """

    def __init__(self, fields: object, path: str) -> None:
        self.path = path
        self._within = f"{path}." if path else ""
        if not isinstance(fields, dict):
            raise wrong(path, "an object is wanted")
        self.fields = cast("dict[str, Any]", fields)

    @property
    def type(self) -> str:
        """The object's type; empty if it does not say."""
        return self.text("type")

    def text(self, name: str, *, needed: bool = False) -> str:
        """Return a field that is a text; empty if it is not there, unless it is ``needed``. Raises ApiError."""
        value = self.fields.get(name)
        if isinstance(value, str):
            return value
        if value is None and not needed:
            return ""
        raise wrong(f"{self._within}{name}", "a text is wanted")

    def object(self, name: str) -> Given | None:
        """Return a field that is an object; None if it is not there. Raises ApiError."""
        value = self.fields.get(name)
        return None if value is None else Given(value, f"{self._within}{name}")

    def parts(self, name: str, of_text: str) -> list[Given]:
        """Return a field that is a list of objects, or a text, which stands for one of type ``of_text``."""
        value = self.fields.get(name)
        if isinstance(value, str):
            return [Given({"type": of_text, "text": value}, f"{self._within}{name}")]
        return givens(value, f"{self._within}{name}")


def givens(value: object, path: str) -> list[Given]:
    """Return a list of objects; null is an empty one. Raises ApiError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(path, "a list of objects is wanted")
    return [Given(one, f"{path}.{n}") for n, one in enumerate(cast("list[Any]", value))]


def lightened(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a chat's tool without what the worker would refuse of its schemas: agents have some that are enormous."""
    function = tool.get("function")
    return tool | {"function": lightened_tool(cast("Schema", function))} if isinstance(function, dict) else tool


def json_of(value: object, path: str) -> str:
    """Write a field of a request as JSON.

    Raises:
        ApiError: it is nested deeper than can be written.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise wrong(path, "it is nested too deeply") from None


def wrong(path: str, what: str) -> ApiError:
    """Return the error of a field that is not as it has to be."""
    return ApiError(400, "invalid_request", f"{path}: {what}.", param=path)
