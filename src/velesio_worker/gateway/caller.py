"""Who asks, and for whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, Self

Priority = Literal["high", "normal", "low"]

_TIERS: Final[dict[object, Priority]] = {"priority": "high", "flex": "low"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: the name of the token, which is the tenant of the jobs; None where the gateway has no tokens.
        key: what binds the ids of jobs to the token.
        session: which conversation the request belongs to; None if it does not say.
        traceparent: the W3C trace context that the request came with.
        priority: the priority of the jobs; None if nothing is said of it.
    """

    name: str | None
    key: bytes
    session: str | None = None
    traceparent: str | None = None
    priority: Priority | None = None

    def in_session(self, session: str | None) -> Self:
        """Return the same caller in the session that a body names, if it names one."""
        return replace(self, session=session[:128]) if session else self

    def in_tier(self, tier: object) -> Self:
        """Return the same caller with the priority of OpenAI's ``service_tier``, if that is one with a priority."""
        priority = _TIERS.get(tier) if isinstance(tier, str) else None
        return replace(self, priority=priority) if priority else self
