"""The blocks of a request's messages, as turns of a chat."""

from __future__ import annotations

from velesio_worker.gateway.conversation import Conversation, Given, Part, json_of, picture_part, text_part, wrong


def add_turn(chat: Conversation, role: str, message: Given) -> None:
    """Add a message to a chat. Blocks of what Anthropic alone runs or reads are left out.

    Raises:
        ApiError: a block is not as it has to be.
    """
    blocks = message.parts("content", "text")
    if role == "assistant":
        for block in blocks:
            _add_said(chat, block)
        return
    results = [block for block in blocks if block.type == "tool_result"]
    for result in results:
        chat.result(result.text("tool_use_id", needed=True), _result(result))
    parts = [part for block in blocks if block not in results for part in _parts(block)]
    if role == "system":
        chat.system("\n\n".join(part["text"] for part in parts if part["type"] == "text"))
    elif parts:
        chat.user(parts)


def text_of(block: Given) -> str:
    """Return a block's text; of an object that is none of text the field's mistake. Raises ApiError."""
    if block.type != "text":
        raise wrong(f"{block.path}.type", "text is wanted")
    return block.text("text", needed=True)


def _add_said(chat: Conversation, block: Given) -> None:
    match block.type:
        case "text":
            chat.assistant(text=text_of(block))
        case "thinking":
            chat.assistant(reasoning=block.text("thinking"))
        case "tool_use":
            given = block.object("input")
            arguments = json_of(given.fields if given else {}, f"{block.path}.input")
            chat.call(block.text("id", needed=True), block.text("name", needed=True), arguments)
        case "":
            raise wrong(f"{block.path}.type", "the block's type is wanted, as text or tool_use")
        case _:
            pass


def _result(block: Given) -> list[Part]:
    blocks = block.parts("content", "text")
    parts = [part for one in blocks for part in _parts(one)]
    if block.fields.get("is_error") is True:
        return [text_part("The tool failed."), *parts]  # nothing else tells the model
    return parts


def _parts(block: Given) -> list[Part]:
    match block.type:
        case "text":
            return [text_part(text_of(block))]
        case "image":
            return [_picture(block)]
        case "document":
            return _document(block)
        case "search_result":
            return [part for one in block.parts("content", "text") for part in _parts(one)]
        case "":
            raise wrong(f"{block.path}.type", "the block's type is wanted, as text or image")
        case _:
            return []


def _picture(block: Given) -> Part:
    source = block.object("source")
    if source is None or source.type != "base64":
        told = "images are taken as base64, never fetched: send the image itself"
        raise wrong(f"{block.path}.source", told)
    media, data = source.text("media_type", needed=True), source.text("data", needed=True)
    return picture_part(f"data:{media};base64,{data}")


def _document(block: Given) -> list[Part]:
    source = block.object("source")
    if source is not None and source.type == "text":
        return [text_part(source.text("data", needed=True))]
    if source is not None and source.type == "content":
        return [part for one in source.parts("content", "text") for part in _parts(one)]
    raise wrong(f"{block.path}.source", "documents are taken as text: send what they say")
