"""llama-server's prompt cache in host memory, which the worker starts it with: nobody gets what another one said."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import base_environment
from tests.support.servers import free_port, wait_until
from velesio_worker.core.settings import Settings
from velesio_worker.engines.llama.command import find_program, own_arguments

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

WORDS = (
    *("Harbour", "Lantern", "Violet", "Copper", "Meadow", "Falcon"),
    *("Granite", "Saffron", "Willow", "Marble", "Thunder", "Orchard"),
)
SHARED = "You copy what stands in the book, line by line, and you never change a word of it."
SLOTS = 3
TURNS = 3
AT_ONCE = 5
"""More requests at once than slots, and more conversations than both."""

CLOSE = 0.1
"""How far a token's log-probability may be from that without a cache; who else is in a batch moves it by 0.006."""


@dataclass
class Conversation:
    """A text that goes on with a word of its own; half of them begin alike, the others differ from the first token on.

    Attributes:
        asked: the prompts so far.
        answers: what the server said to them.
    """

    number: int
    asked: list[str] = field(default_factory=list[str])
    answers: list[Any] = field(default_factory=list[Any])

    @property
    def word(self) -> str:
        return WORDS[self.number]

    def prompt(self) -> str:
        """Return the next prompt: all that was said, and one line more."""
        if not self.asked:
            head = SHARED if self.number % 2 else f"{self.word}. " * 8
            return "\n".join([head, *(f"Line {n}: the word is {self.word}." for n in range(1, 5)), "Line 5:"])
        said = self.answers[-1]["content"].split("\n")[0]
        return f"{self.asked[-1]}{said}\nLine {5 + len(self.asked)}:"


def request(port: int, prompt: str, *, cached: bool = True) -> HTTPConnection:
    body = {"prompt": prompt, "n_predict": 6, "temperature": 0, "seed": 1, "n_probs": 1, "cache_prompt": cached}
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    return connection


def ask(port: int, prompt: str, *, cached: bool = True) -> Any:
    with closing(request(port, prompt, cached=cached)) as connection:
        return json.loads(connection.getresponse().read())


@contextmanager
def served(model: Path, log: Path, *flags: str) -> Generator[int]:
    """Start llama-server as the worker does; yields its port."""
    port = free_port()
    settings = Settings.model_validate({"llama_port": port, "llm_concurrency": SLOTS, "context_size": 256})
    command = [*find_program()[0], *own_arguments(settings, model, None), "--no-warmup", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=base_environment(), stdout=output, stderr=subprocess.STDOUT)

    def answers() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        with suppress(OSError), closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    try:
        wait_until(answers, "the server is ready")
        yield port
    finally:
        process.kill()
        process.wait()


def one_turn(port: int, conversations: list[Conversation], *, hang_up: bool) -> None:
    def go_on(conversation: Conversation) -> None:
        prompt = conversation.prompt()
        if hang_up and conversation.number % 3 == 0:
            request(port, prompt).close()
        answer = ask(port, prompt)
        conversation.asked.append(prompt)
        conversation.answers.append(answer)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(go_on, random.sample(conversations, len(conversations))))


def first_token(answer: Any) -> tuple[int, float]:
    """The first token of an answer, and the logarithm of its probability."""
    first = answer["completion_probabilities"][0]
    return first["id"], first["logprob"]


def test_no_conversation_gets_what_belongs_to_another(model_path: Path, tmp_path: Path) -> None:
    conversations = [Conversation(number) for number in range(len(WORDS))]
    with served(model_path, tmp_path / "cached.log") as port:
        for turn in range(TURNS):
            one_turn(port, conversations, hang_up=turn == 1)
    for conversation, turn in itertools.product(conversations, range(TURNS)):
        said = conversation.answers[turn]["content"]
        assert [word for word in WORDS if word in said] == [conversation.word], (turn, said)
    with served(model_path, tmp_path / "uncached.log", "--cache-ram", "0") as port:
        for conversation in conversations:
            alone = ask(port, conversation.asked[-1], cached=False)
            assert alone["timings"]["cache_n"] == 0
            token, likely = first_token(alone)
            assert first_token(conversation.answers[-1]) == (token, pytest.approx(likely, abs=CLOSE))
    later = [answer["timings"] for conversation in conversations for answer in conversation.answers[1:]]
    read, kept = (sum(timings[name] for timings in later) for name in ("prompt_n", "cache_n"))
    assert kept > read, "the cache was hardly used"
