"""What the routes of all dialects share."""

from __future__ import annotations

from asyncio import Event
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from velesio_worker.client import Client
from velesio_worker.client.fanout import Hub
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Jobs
from velesio_worker.gateway.seen import seen_of
from velesio_worker.gateway.settings import GatewaySettings

STATE: Final = "gateway"


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway, as its routes see it.

    Attributes:
        settings: its settings.
        client: for what no other part does: how a job stands.
        jobs: for submitting, following and cancelling.
        viewers: for streams that are shown as they are.
        ending: set once the gateway takes no new requests.
    """

    settings: GatewaySettings
    client: Client
    jobs: Jobs
    viewers: Hub
    ending: Event

    def caller_of(self, request: Request) -> Caller:
        """Return who sent a request. Raises ApiError: nobody that is known (401), or too often (429)."""
        caller = seen_of(request.scope).caller
        if isinstance(caller, Caller):
            return caller
        raise caller or ApiError(500, "internal_error", "Nobody asked who this is.")


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that answers a request."""
    gateway: Gateway = request.scope["state"][STATE]
    return gateway
