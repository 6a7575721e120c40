"""What is said on the pictures of the chat page: a script, as the small model of the tests is no good author."""

from __future__ import annotations

import re
from typing import Any, Final

import anyio
from tests.support.scripted_worker import Desk, delta

MODEL: Final = "example-8B-Q4_K_M"
PIECES_PER_SECOND: Final = 120.0

QUESTION: Final = "How fast does a cup of tea cool down? Give me the formula, and a few lines of Python."

_COOLING: Final = r"""It follows **Newton's law of cooling**: the warmer the tea, the faster it cools.

$$T(t) = T_r + (T_0 - T_r)\,e^{-kt}$$

- $T_0$ is how warm the tea is at first, $T_r$ how warm the room is
- $k$ depends on the cup: about 0.03 per minute for a mug, 0.05 for a thin glass

```python
from math import exp

def warmth(minutes: float, tea: float = 90, room: float = 20, k: float = 0.03) -> float:
    # How warm the tea is after so many minutes, in °C.
    return room + (tea - room) * exp(-k * minutes)

print(round(warmth(15)))  # 65: now it can be drunk
```

After a quarter of an hour it has 65 °C, which most people find *just right*."""

ANSWERS: Final = {
    QUESTION: _COOLING,
    "Name a bird that sleeps in flight": "The common swift: it stays in the air for ten months of the year.",
    "A title for a talk about queues": "*First come, first served: what a supermarket knows of computers.*",
    "Translate: the early bird": "„Morgenstund hat Gold im Mund.“",
}
"""The answer to each question; the last question is the one that is seen."""


LOST: Final = "Why is it called a queue?"
"""The question whose worker is lost in the middle of the answer."""

ANSWER_OF_TWO: Final = (
    "The word comes from the French *queue*, a tail, and that from the Latin *cauda*. In the sixteenth century ",
    """it was a heraldic word for the tail of a beast, later for a plait of hair, and from 1837 on for people who wait \
one behind the other. Computers took it over with its rule: *first come, first served.*""",
)


async def of_two(desk: Desk) -> None:
    """Answer as two workers do, the second of which goes on where the first was lost."""
    said = 0
    for attempt, (worker, mode) in enumerate((("gpu-4", "fresh"), ("gpu-2", "continue"))):
        start = {"type": desk.type, "attempt": attempt + 1, "worker": worker, "model": MODEL, "mode": mode}
        desk.attempt(attempt + 1)
        await desk.write("start", start)
        for piece in pieces_of(ANSWER_OF_TWO[attempt]):
            await desk.write("token", {"choices": [delta({"content": piece})]})
            await anyio.sleep(1 / PIECES_PER_SECOND)
            said += 1
    usage = {"prompt_tokens": 31, "completion_tokens": said, "total_tokens": 31 + said}
    text = "".join(ANSWER_OF_TWO)
    message = {"role": "assistant", "content": text}
    await desk.end({"text": text, "message": message, "finish_reason": "stop", "usage": usage, "timings": None})


def pieces_of(text: str) -> list[str]:
    """Cut a text into pieces like tokens."""
    return re.findall(r"\s*\w+|\s*[^\w\s]|\s+$", text)


async def script(desk: Desk) -> None:
    """Answer as a worker does, one token after the other."""
    question: str = desk.data["messages"][-1]["content"]
    answer = ANSWERS[question]
    await desk.write("start", {"type": desk.type, "attempt": 1, "worker": "gpu-1", "model": MODEL, "mode": "fresh"})
    await desk.write("token", {"choices": [delta({"role": "assistant", "content": None})]})
    pieces = pieces_of(answer)
    for piece in pieces:
        await desk.write("token", {"choices": [delta({"content": piece})]})
        await anyio.sleep(1 / PIECES_PER_SECOND)
    usage = {"prompt_tokens": 31, "completion_tokens": len(pieces), "total_tokens": 31 + len(pieces)}
    message = {"role": "assistant", "content": answer}
    result: dict[str, Any] = {"text": answer, "message": message, "finish_reason": "stop", "usage": usage}
    await desk.end(result | {"timings": None})
