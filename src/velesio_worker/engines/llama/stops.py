"""Stop strings, found in an answer's pieces.

llama-server finds them as well, but of a stream that ends otherwise it drops what it held back for their sake. It looks
for them in what the model writes, with the marks between reasoning, text and calls: none goes over from one to another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

_TEXTS: Final = ("content", "reasoning_content")

_TAG: Final = re.compile(r"<[^<>]{1,64}>|\[/?[A-Z_]{1,64}\]")

Choice = dict[str, Any]


def among_marks(stops: Sequence[str], template: str) -> list[str]:
    """Return the stop strings that have a mark of a chat template in them, as ``</think>``.

    llama-server takes its marks out of an answer when it tells the reasoning, the text and the calls apart, so that
    nobody but itself can find these strings.
    """
    return [stop for stop in stops if any(tag in template for tag in _TAG.findall(stop))]


class StopStrings:
    """Holds back the pieces that may become a stop string, and cuts the text before one.

    A piece that is cut in two keeps its probabilities; those of pieces that are cut off go with them.

    Args:
        stops: the strings that end a text; none is empty.

    Attributes:
        found: whether one was found: nothing that follows belongs to the answer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False
        self._stops = stops
        self._place: object = None
        self._held: list[tuple[str, Choice]] = []

    def add(self, choice: Choice) -> list[Choice]:
        """Take a choice; returns those that may be handed out now, in order."""
        if self.found:
            return []
        place, text = _place_of(choice)
        out: list[Choice] = []
        if place != self._place:  # a stop string does not go over from the reasoning to the answer
            out, self._place = self.rest(), place
        if place is None:
            return [*out, choice]
        self._held.append((text, choice))
        held = "".join(text for text, _ in self._held)
        cut = min((at for stop in self._stops if (at := held.find(stop)) >= 0), default=-1)
        if cut < 0:
            out += self._take_up_to(min(_may_begin(stop, held) for stop in self._stops))[0]
            return out
        self.found = True
        whole, over = self._take_up_to(cut)
        out += whole
        if over:
            out.append(_with_text(self._held[0][1], self._held[0][0][:over]))
        self._held.clear()
        return out

    def rest(self) -> list[Choice]:
        """Return what is held back still, of which no stop string has come."""
        held = [choice for _, choice in self._held]
        self._held.clear()
        return held

    def _take_up_to(self, end: int) -> tuple[list[Choice], int]:
        """Take out the choices that end before a place, and say how many characters of the next one do so."""
        whole = 0
        for text, _ in self._held:
            if len(text) > end:
                break
            end -= len(text)
            whole += 1
        out = [choice for _, choice in self._held[:whole]]
        del self._held[:whole]
        return out, end if self._held else 0


def _may_begin(stop: str, text: str) -> int:
    """Return where a stop string may have begun that goes on behind the text's end; the end itself if nowhere."""
    at = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while at >= 0:
        if stop.startswith(text[at:]):
            return at
        at = text.find(stop[0], at + 1)
    return len(text)


def _place_of(choice: Choice) -> tuple[object, str]:
    """Return in which text of an answer a choice goes on, and with what; None for no text."""
    match choice:
        case {"text": str(text)}:
            return "text", text
        case {"delta": {"tool_calls": [{"index": int(index), "function": {"arguments": str(arguments)}}]}}:
            return index, arguments
        case {"delta": {"tool_calls": [_, *_]}} | {"delta": {"content": str(), "reasoning_content": str()}}:
            return None, ""
        case {"delta": {"content": str(text)}}:
            return "content", text
        case {"delta": {"reasoning_content": str(text)}}:
            return "reasoning_content", text
        case _:
            return None, ""


def _with_text(choice: Choice, text: str) -> Choice:
    """Return a choice with another text in its place."""
    match choice:
        case {"text": str()}:
            return choice | {"text": text}
        case {"delta": {"tool_calls": [call, *_]}}:
            cut = call | {"function": call["function"] | {"arguments": text}}
            return choice | {"delta": choice["delta"] | {"tool_calls": [cut]}}
        case _:
            return choice | {"delta": {name: text if name in _TEXTS else it for name, it in choice["delta"].items()}}
