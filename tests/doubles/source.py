"""An engine that is there, in the supervisor's place."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from velesio_worker.engines.base import PLAIN, EngineState, Traits
from velesio_worker.engines.requests import EngineRequest


class SourceDouble:
    """Lends one engine to every job, and keeps what is complained of.

    Args:
        engine: the engine; None: the source is one itself.

    Attributes:
        traits: what the engine is like.
        model: the model's name.
        complaints: what the engine's users found wrong with it.
    """

    traits: Traits = PLAIN
    model: str

    def __init__(self, engine: Any = None) -> None:
        self._engine: Any = engine or self
        if engine is not None:
            self.model = engine.model
        self.complaints: list[str] = []

    @asynccontextmanager
    async def ensure(
        self,
        model: str | None = None,
        *,
        on_wait: Callable[[EngineState], None] | None = None,
        request: EngineRequest | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Lend the engine."""
        assert on_wait is not None
        assert request is not None
        self.asked_for(model, on_wait, request)
        yield self._engine

    def asked_for(self, model: str | None, on_wait: Callable[[EngineState], None], request: EngineRequest) -> None:
        """Take note of who asks; raises what he is to get instead."""
        del on_wait, request
        assert model is None

    async def identity(self, model: str | None) -> str | None:
        """Say what makes one answer the same as another one."""
        return model

    async def lost(self) -> None:
        """Take the complaint that the engine is gone."""
        self.complaints.append("lost")

    async def stalled(self, reason: str) -> None:
        """Take the complaint that nothing comes."""
        self.complaints.append(reason)

    def renew(self, reason: str) -> None:
        """Take the complaint that it has to be started anew."""
        self.complaints.append(reason)
