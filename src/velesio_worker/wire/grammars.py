"""Grammars that an answer has to obey (GBNF): what would cost llama-server its stack, its memory or its time.

Limits are those of its build b11434, found by trying. What a grammar that is no GBNF means is left to llama-server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from velesio_worker.wire.limits import (
    MOST_GRAMMAR,
    MOST_GRAMMAR_DEPTH,
    MOST_GRAMMAR_REPEATED,
    MOST_GRAMMAR_RULES,
    MOST_GRAMMAR_SKIPS,
    MOST_GRAMMAR_WAYS,
)

_SIGN: Final = re.compile(
    r"""(?xs) \#[^\n]*+
    | (?P<text> "(?:[^"\\]|\\.)*+" | \[(?:[^\]\\]|\\.)*+\] | \. | !?<[^>\n]*+>)
    | (?P<begin>\() | (?P<end>\)) | (?P<or>\|)
    | (?P<times>[*+?] | \{[\s\d,]*+\})
    | (?P<rule>[A-Za-z0-9_-]++)\s*+::= | (?P<name>[A-Za-z0-9_-]++)
    """
)
_DIGITS: Final = 9
_ENDLESS: Final = {"*": (0, 1), "+": (1, 1), "?": (0, 1)}
_PASSES: Final = 16
"""How often the rules are gone through at most to find those that may be empty."""


@dataclass(slots=True)
class _Item:
    """What stands in a rule: a text, or another rule; and how often.

    Attributes:
        size: how many signs it has, written out.
        name: the rule's name; empty for a text.
    """

    size: int
    name: str = ""
    least: int = 1
    most: int = 1


_Alternatives = list[list[_Item]]


@dataclass(slots=True)
class _Rules:
    """The rules of a grammar, each with its alternatives, and what is found out about them."""

    rules: dict[str, _Alternatives]
    empty: set[str] = field(default_factory=set[str])
    ways: dict[str, int] = field(default_factory=dict[str, int])

    def may_be_empty(self, item: _Item) -> bool:
        """Whether an item may stand for nothing."""
        return not item.least or item.name in self.empty

    def one_empty(self, alternatives: _Alternatives) -> bool:
        """Whether one of the alternatives may stand for nothing."""
        return any(all(map(self.may_be_empty, sequence)) for sequence in alternatives)

    def count(self, alternatives: _Alternatives) -> int:
        """Count the ways in which alternatives may begin.

        Raises:
            ValueError: there are too many, here or at a place within.
        """
        ways = 0
        for sequence in alternatives:
            ahead = 0
            for item in reversed(sequence):
                here = self.ways.get(item.name, 1)
                again = item.most if item.name in self.empty else 1
                skipped = self.may_be_empty(item) and ahead
                ahead = here * again + (ahead if skipped else 0)
                if skipped or again > 1:
                    _check(ahead, MOST_GRAMMAR_SKIPS, "can go on, with what is optional left out, in", "ways")
                _check(ahead, MOST_GRAMMAR_WAYS, "can go on in", "ways at one place")
            ways += max(ahead, 1)
        _check(ways, MOST_GRAMMAR_WAYS, "can go on in", "ways at one place")
        return ways


def checked_grammar(grammar: str) -> str:
    """Return a grammar as it is, if an engine may be held to it.

    Raises:
        ValueError: it is none, or would cost too much.
    """
    if grammar.lstrip().startswith("%llguidance"):
        raise ValueError("GBNF is wanted: no other grammar is sure to be enforced")
    rules = _Rules(_read(grammar))
    order = _from_within(rules.rules)
    for _ in range(_PASSES):
        known = len(rules.empty)
        rules.empty.update(name for name in order if rules.one_empty(rules.rules[name]))
        if len(rules.empty) == known:
            break
    for name in order:
        rules.ways[name] = rules.count(rules.rules[name])
    return grammar


def _check(count: int, most: int, what: str, of: str) -> None:
    if count > most:
        raise ValueError(f"a grammar {what} {most} {of} at most")


def _read(grammar: str) -> dict[str, _Alternatives]:
    """Read the rules, and check how deep they are, and how large with all that is repeated written out.

    What stands in parentheses is a rule, as it is to llama-server, with a name that no other has.
    """
    alternatives = _nothing()
    rules, outer = {"(": alternatives}, list[tuple[str, _Alternatives]]()
    for found in _SIGN.finditer(grammar):
        match found.lastgroup:
            case "rule":
                outer = []
                rules[found["rule"]] = alternatives = _nothing()
            case "text" | "name":
                alternatives[-1].append(_Item(len(found.group()), found["name"] or ""))
            case "begin":
                outer.append((f"({len(rules)}", alternatives))
                rules[outer[-1][0]] = alternatives = _nothing()
                _check(len(outer), MOST_GRAMMAR_DEPTH, "is nested", "levels deep")
            case "end" if outer:
                name, around = outer.pop()
                around[-1].append(_Item(sum(item.size for sequence in alternatives for item in sequence), name))
                alternatives = around
            case "or":
                alternatives.append([])
            case "times" if alternatives[-1]:
                item = alternatives[-1][-1]
                item.least, item.most = _times(found["times"])
                item.size *= max(item.most, 1)
                _check(item.size, MOST_GRAMMAR, "with its repetitions written out has", "characters")
            case _:
                pass
        _check(len(rules), MOST_GRAMMAR_RULES, "has", "rules")
    written = sum(
        item.size for name, rule in rules.items() if name[:1] != "(" for sequence in rule for item in sequence
    )
    _check(written, MOST_GRAMMAR, "with its repetitions written out has", "characters")
    return rules


def _nothing() -> _Alternatives:
    return [[]]


def _times(sign: str) -> tuple[int, int]:
    """How often at least, and at most as far as that is written out."""
    if sign in _ENDLESS:
        return _ENDLESS[sign]
    counts = re.findall(r"\d+", sign)
    if any(len(count) > _DIGITS or int(count) > MOST_GRAMMAR_REPEATED for count in counts):
        raise ValueError(f"a grammar repeats something {MOST_GRAMMAR_REPEATED} times at most")
    return (int(counts[0]), max(map(int, counts))) if counts else (1, 1)


def _from_within(rules: dict[str, _Alternatives]) -> list[str]:
    """The names of the rules, each behind those that it is made of, as far as they do not go in a circle."""
    order: dict[str, None] = {}
    begun: set[str] = set()
    waiting = list(rules)
    while waiting:
        name = waiting[-1]
        if name in begun:
            order.setdefault(waiting.pop())
        else:
            begun.add(name)
            inner = {item.name for sequence in rules[name] for item in sequence}
            waiting += [one for one in inner if one in rules and one not in begun]
    return list(order)
