"""A chat bot in the manner of Discord's: an answer is a message that is edited while it grows.

Each channel has a conversation of its own; ``!stop`` ends the answer that is being written there, ``!new`` forgets the
conversation. The chat platform is the small interface :class:`Platform`, here the terminal; for a real one, write its
three methods with that platform's library.

    REDIS_URL=redis://127.0.0.1:6379 .venv/bin/python examples/bot.py
"""

import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
from anyio.to_thread import run_sync
from redis.exceptions import RedisError

from velesio_worker.client import Client, StreamEvent

EDIT_SECONDS: Final = 1.0
"""Platforms count edits: a bot that edits with every token is soon not heard any more."""

LONGEST_MESSAGE: Final = 2000
REMEMBERED: Final = 20
"""So many messages of a channel are sent along, half of them questions."""

WAITING: Final = 8
"""So many questions may wait in a channel."""


@dataclass(frozen=True)
class Message:
    """What somebody wrote."""

    channel: str
    text: str


class Platform(Protocol):
    """As much of a chat platform as the bot needs."""

    def messages(self) -> AsyncIterator[Message]:
        """Yield what people write, as long as there is a connection."""
        ...

    async def send(self, channel: str, text: str) -> str:
        """Write a message; returns its id."""
        ...

    async def edit(self, channel: str, message: str, text: str) -> None:
        """Replace the text of a message."""
        ...


@dataclass
class Draft:
    """An answer that is being written."""

    text: str = ""
    over: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event)

    def take(self, event: StreamEvent) -> None:
        """Take the next entry of the job's stream."""
        if event.event == "start" and event.data["mode"] == "restart":
            self.text = ""  # the worker was lost and the answer begins anew; after ``continue`` it just goes on
        self.text += event.text
        if event.event == "error":
            self.text += f"\n[{event.data['error']}]"
        elif event.data.get("finish_reason") == "cancelled":
            self.text += " [stopped]"
        if event.terminal:
            self.text = self.text.strip() or "[no answer]"
            self.over = True
        self.changed.set()


def _nothing_yet() -> deque[dict[str, str]]:
    return deque(maxlen=REMEMBERED)


class Channel:
    """One conversation, whose questions are answered one after the other."""

    def __init__(self, client: Client, platform: Platform, name: str, edit_seconds: float) -> None:
        self._client, self._platform, self._name, self._edit_seconds = client, platform, name, edit_seconds
        self._history = _nothing_yet()
        self._ask, self._asked = anyio.create_memory_object_stream[str](WAITING)
        self._job: str | None = None

    async def take(self, text: str) -> None:
        """Take a message; what is a question waits for its turn."""
        if text == "!stop":
            if self._job is not None:
                await self._client.cancel(self._job)
        elif text == "!new":
            self._history = _nothing_yet()  # an answer that is being written belongs to the old one
        else:
            try:
                self._ask.send_nowait(text)
            except anyio.WouldBlock:
                await self._platform.send(self._name, "One after the other, please.")

    def close(self) -> None:
        """Have :meth:`run` end once all questions are answered."""
        self._ask.close()

    async def run(self) -> None:
        """Answer, until the channel is closed."""
        async with self._asked:
            async for question in self._asked:
                history, asked = self._history, {"role": "user", "content": question}
                try:
                    if answer := await self._answer([*history, asked]):
                        history += [asked, {"role": "assistant", "content": answer}]
                except RedisError:
                    await self._platform.send(self._name, "I cannot be reached just now. Ask again in a minute.")

    async def _answer(self, messages: list[dict[str, str]]) -> str:
        """Write an answer; returns what the model is to remember of it, of one that failed nothing."""
        data: dict[str, Any] = {"messages": messages, "max_tokens": 512, "stream": True}
        # Should the bot die, nobody reads on, and the job is cancelled by itself.
        self._job = job = await self._client.submit("chat_completion", data, session=self._name, unread_timeout=60)
        message, draft = await self._platform.send(self._name, "…"), Draft()
        try:
            async with anyio.create_task_group() as tasks, aclosing(self._client.events(job)) as events:
                tasks.start_soon(self._show, message, draft)
                async for event in events:
                    draft.take(event)
        finally:
            self._job = None
        return (await self._client.stored_result(job) or {}).get("text", "")

    async def _show(self, message: str, draft: Draft) -> None:
        """Edit the message while the answer grows, never sooner than is allowed, and a last time at its end."""
        shown = ""
        while not (draft.over and draft.text == shown):
            await draft.changed.wait()
            draft.changed = anyio.Event()
            if draft.text.strip() and draft.text != shown:
                shown = draft.text
                await self._platform.edit(self._name, message, shown[:LONGEST_MESSAGE])
                await anyio.sleep(self._edit_seconds)


async def serve(client: Client, platform: Platform, *, edit_seconds: float = EDIT_SECONDS) -> None:
    """Answer what people write, until the platform's connection ends and all questions are answered."""
    channels: dict[str, Channel] = {}
    async with anyio.create_task_group() as tasks:
        async for message in platform.messages():
            channel = channels.get(message.channel)
            if channel is None:
                channel = channels[message.channel] = Channel(client, platform, message.channel, edit_seconds)
                tasks.start_soon(channel.run)
            await channel.take(message.text)
        for channel in channels.values():
            channel.close()


class Console:
    """The terminal as a platform with one channel; an edit shows what has been added."""

    def __init__(self) -> None:
        self._shown = ""

    async def messages(self) -> AsyncIterator[Message]:
        """Yield the lines that are typed, to the end of the input (Ctrl-D)."""
        while line := await run_sync(sys.stdin.readline, abandon_on_cancel=True):
            if line.strip():
                yield Message("terminal", line.strip())

    async def send(self, channel: str, text: str) -> str:
        """Write a message on a line of its own."""
        self._shown = text
        print(f"\n{channel}: {text}", end="", flush=True)
        return channel

    async def edit(self, channel: str, message: str, text: str) -> None:  # noqa: ARG002 (there is one channel)
        """Write what is new of a text; all of it where it is another one."""
        new = text.removeprefix(self._shown)
        print(new if len(new) < len(text) else f"\n{message}: {text}", end="", flush=True)
        self._shown = text


async def main() -> None:
    """Run the bot in the terminal."""
    async with Client(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")) as client:
        await serve(client, Console())
    print()


if __name__ == "__main__":
    anyio.run(main)
