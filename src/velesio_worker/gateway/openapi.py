"""What the routes are, for ``/openapi.json``."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel


class Operation(NamedTuple):
    """One route and method.

    Attributes:
        path: as the router has it.
        method: the HTTP method.
        model: what the body has to be; None where there is none.
        summary: what it does, in a few words.
        streams: whether it may answer with server-sent events.
    """

    path: str
    method: str
    model: type[BaseModel] | None
    summary: str
    streams: bool = False
