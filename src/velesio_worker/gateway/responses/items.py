"""The items of a request's input, as turns of a chat."""

from __future__ import annotations

from typing import Final

import orjson

from velesio_worker.gateway.conversation import Conversation, Given, Part, givens, picture_part, text_part, wrong

_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")


def add_item(chat: Conversation, item: Given) -> None:
    """Add an item of the input to a chat. Those of tools that are not to be had here are left out.

    Raises:
        ApiError: it is not as an item has to be, or refers to what would have to be stored.
    """
    kind = item.type or ("message" if "role" in item.fields else "")
    if kind == "message":
        _add_message(chat, item)
    elif kind == "function_call":
        chat.call(_call_id(item), item.text("name", needed=True), item.text("arguments"))
    elif kind == "custom_tool_call":
        arguments = orjson.dumps({"input": item.text("input")}).decode()
        chat.call(_call_id(item), item.text("name", needed=True), arguments)
    elif kind in _OUTPUTS:
        chat.result(_call_id(item), _parts(item, "output"))
    elif kind == "reasoning":
        thoughts = givens(item.fields.get("content"), f"{item.path}.content")
        thoughts = thoughts or givens(item.fields.get("summary"), f"{item.path}.summary")
        if said := "\n\n".join(thought.text("text") for thought in thoughts):
            chat.assistant(reasoning=said)
    elif kind == "item_reference":
        raise wrong(item.path, "nothing is stored here: send the item itself")
    elif not kind:
        raise wrong(f"{item.path}.type", "the item's type is wanted, as message or function_call")


def _call_id(item: Given) -> str:
    return item.text("call_id", needed=True)


def _add_message(chat: Conversation, item: Given) -> None:
    role = item.text("role", needed=True)
    parts = _parts(item, "content")
    texts = [part["text"] for part in parts if part["type"] == "text"]
    if role == "assistant":
        chat.assistant(text="".join(texts))
    elif role in ("system", "developer"):
        chat.system("\n\n".join(texts))
    elif role == "user":
        chat.user(parts)
    else:
        raise wrong(f"{item.path}.role", "user, assistant, system or developer is wanted")


def _parts(item: Given, name: str) -> list[Part]:
    return [_part(part) for part in item.parts(name, "input_text")]


def _part(part: Given) -> Part:
    if part.type in _TEXTS:
        return text_part(part.text("text", needed=True))
    if part.type == "refusal":
        return text_part(part.text("refusal"))
    if part.type == "input_image":
        if not (url := part.text("image_url")):
            raise wrong(f"{part.path}.image_url", "no files are stored here: send the image as a data URI")
        if not url.startswith("data:"):
            raise wrong(f"{part.path}.image_url", "images are taken as data URIs, never fetched")
        return picture_part(url)
    raise wrong(f"{part.path}.type", "input_text or input_image is wanted")
