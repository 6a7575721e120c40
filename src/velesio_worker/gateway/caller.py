"""Who asks, and for whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: the name of the token, which is the tenant of the jobs; None where the gateway has no tokens.
        key: what binds the ids of jobs to the token.
        session: which conversation the request belongs to; None if it does not say.
        traceparent: the W3C trace context that the request came with.
    """

    name: str | None
    key: bytes
    session: str | None = None
    traceparent: str | None = None

    def in_session(self, session: str | None) -> Self:
        """Return the same caller in the session that a body names, if it names one."""
        return replace(self, session=session[:128]) if session else self
