"""The bot: answers grow by edits that are rare enough, each channel has its conversation, and !stop stops."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import anyio
import pytest
from examples.bot import LONGEST_MESSAGE, WAITING, Message, serve

from tests.examples.conftest import EXAMPLES, ChatWorker, program
from tests.support.scripted_worker import Desk, Script, ScriptedWorker, delta
from tests.support.waiting import until
from velesio_worker.client import Client
from velesio_worker.wire.errors import OutOfMemoryError

EDIT_SECONDS: Final = 0.05


@dataclass
class Chats:
    """A chat platform in memory: what was written, and each text that a message has had with its time."""

    versions: list[tuple[str, list[tuple[float, str]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write, self._written = anyio.create_memory_object_stream[Message](100)

    async def messages(self) -> AsyncIterator[Message]:
        async with self._written:
            async for message in self._written:
                yield message

    async def send(self, channel: str, text: str) -> str:
        self.versions.append((channel, [(time.monotonic(), text)]))
        return str(len(self.versions) - 1)

    async def edit(self, channel: str, message: str, text: str) -> None:
        name, versions = self.versions[int(message)]
        assert name == channel
        versions.append((time.monotonic(), text))

    def say(self, text: str, channel: str = "general") -> None:
        self.write.send_nowait(Message(channel, text))

    @property
    def last(self) -> list[str]:
        """What each message of the bot's says now."""
        return [versions[-1][1] for _, versions in self.versions]


@dataclass
class Table:
    chats: Chats
    worker: ScriptedWorker


@asynccontextmanager
async def bot(redis_url: str, commands: Any, script: Script) -> AsyncGenerator[Table]:
    """Run the bot in front of a worker; it has to end by itself once nobody can write any more."""
    table = Table(Chats(), ScriptedWorker(commands))
    table.worker.script = script
    async with Client(redis_url) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(table.worker.run)
        async with anyio.create_task_group() as bots:
            bots.start_soon(lambda: serve(client, table.chats, edit_seconds=EDIT_SECONDS))
            yield table
            table.chats.write.close()
        tasks.cancel_scope.cancel()


def says(pieces: Sequence[str]) -> Script:
    async def script(desk: Desk) -> None:
        await desk.stream([delta({"content": piece}) for piece in pieces])

    return script


async def stopped(desk: Desk) -> None:
    await desk.start()
    await desk.write("token", {"choices": [delta({"content": "Once upon"})]})
    await desk.cancelled()
    await desk.end({"text": "Once upon", "finish_reason": "cancelled", "usage": None, "timings": None})


@pytest.mark.anyio
async def test_an_answer_grows_by_edits_that_are_never_too_close(redis_url: str, commands: Any) -> None:
    async def script(desk: Desk) -> None:
        await desk.start()
        for number in range(40):
            await desk.write("token", {"choices": [delta({"content": f"{number} "})]})
            await anyio.sleep(0.005)
        await desk.end({"text": "…", "finish_reason": "stop", "usage": None, "timings": None})

    async with bot(redis_url, commands, script) as table:
        table.chats.say("Count.")
    [(_, versions)] = table.chats.versions
    texts = [text for _, text in versions]
    assert texts[-1] == " ".join(map(str, range(40)))
    assert 3 <= len(texts) < 40
    assert all(later.startswith(earlier.strip()) for earlier, later in pairwise(texts[1:]))
    moments = [moment for moment, _ in versions[1:]]
    assert min(b - a for a, b in pairwise(moments)) >= EDIT_SECONDS


@pytest.mark.anyio
async def test_each_channel_has_its_own_conversation_until_it_is_forgotten(redis_url: str, commands: Any) -> None:
    async with bot(redis_url, commands, says(["Hi", "."])) as table:
        for count, (text, channel) in enumerate([("One", "a"), ("Two", "b"), ("Three", "a")], 1):
            table.chats.say(text, channel)
            await until(lambda count=count: table.chats.last == ["Hi."] * count)
            await until(lambda count=count: len(table.worker.jobs) == count)
        table.chats.say("!new", "a")
        table.chats.say("Four", "a")
    asked = [[message["content"] for message in data["messages"]] for data in table.worker.data]
    assert asked == [["One"], ["Two"], ["One", "Hi.", "Three"], ["Four"]]
    assert [job["session"] for job in table.worker.jobs] == ["a", "b", "a", "a"]


@pytest.mark.anyio
async def test_stop_ends_the_answer_which_stays_and_is_remembered(redis_url: str, commands: Any) -> None:
    async with bot(redis_url, commands, stopped) as table:
        table.chats.say("Tell me a story.")
        await until(lambda: table.chats.last == ["Once upon"])
        table.chats.say("!stop")
        await until(lambda: table.chats.last == ["Once upon [stopped]"])
        table.worker.script = says(["Fine."])
        table.chats.say("Thanks.")
    assert [message["content"] for message in table.worker.data[1]["messages"]][1] == "Once upon"


@pytest.mark.anyio
async def test_a_lost_worker_makes_the_answer_begin_anew_or_go_on(redis_url: str, commands: Any) -> None:
    async def script(desk: Desk) -> None:
        for mode, text in (("fresh", "Wrong"), ("restart", "Right"), ("continue", " and long")):
            await desk.start(mode)
            await desk.write("token", {"choices": [delta({"content": text})]})
        await desk.end({"text": "Right and long", "finish_reason": "stop", "usage": None, "timings": None})

    async with bot(redis_url, commands, script) as table:
        table.chats.say("Well?")
    assert table.chats.last == ["Right and long"]


@pytest.mark.anyio
async def test_an_error_is_told_and_not_remembered(redis_url: str, commands: Any) -> None:
    async def script(desk: Desk) -> None:
        await desk.start()
        await desk.fail(OutOfMemoryError("There is no room."))

    async with bot(redis_url, commands, script) as table:
        table.chats.say("Well?")
        await until(lambda: table.chats.last == ["[There is no room.]"])
        table.worker.script = says(["x" * 3000])
        table.chats.say("And now?")
    assert [message["content"] for message in table.worker.data[1]["messages"]] == ["And now?"]
    assert len(table.chats.last[1]) == LONGEST_MESSAGE


@pytest.mark.anyio
async def test_questions_wait_for_their_turn_and_too_many_are_refused(redis_url: str, commands: Any) -> None:
    async with bot(redis_url, commands, stopped) as table:
        table.chats.say("The first")
        await until(lambda: table.chats.last == ["Once upon"])
        for number in range(WAITING + 1):
            table.chats.say(f"More {number}")
        await until(lambda: table.chats.last == ["Once upon", "One after the other, please."])
        table.worker.script = says(["Yes."])
        table.chats.say("!stop")
    assert table.chats.last[2:] == ["Yes."] * WAITING


@pytest.mark.processes
def test_in_the_terminal_an_answer_is_typed_and_the_bot_ends_with_the_input(worker: ChatWorker, redis_url: str) -> None:
    with program([sys.executable, EXAMPLES / "bot.py"], env={"REDIS_URL": redis_url}) as process:
        assert process.stdin is not None
        process.stdin.write("Say hello.\n")
        process.stdin.flush()
        worker.answer("Hello, you.", "Hello,", " you.")
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert output.replace("\n", " ").split() == ["terminal:", "…", "terminal:", "Hello,", "you."]
