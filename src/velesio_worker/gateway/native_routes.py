"""The table of the gateway's own routes."""

from __future__ import annotations

from typing import Final

from starlette.routing import Route

from velesio_worker.gateway import health, native, native_events, queue_status
from velesio_worker.gateway.live import dialect
from velesio_worker.gateway.middleware import error_body
from velesio_worker.gateway.openapi import Operation

ROUTES: Final = (
    Route("/jobs", native.submit, methods=["POST"]),
    Route("/jobs/{id}", native.show, methods=["GET"]),
    Route("/jobs/{id}", native.cancel, methods=["DELETE"]),
    Route("/jobs/{id}/events", native_events.events, methods=["GET"]),
    Route("/jobs/{id}/images/{number:int}", native.image, methods=["GET"]),
    Route("/jobs/{id}/preview", native.preview, methods=["GET"]),
    Route("/queue/status", queue_status.status, methods=["GET"]),
    Route("/livez", health.live, methods=["GET"]),
    Route("/readyz", health.ready, methods=["GET"]),
    Route("/health", health.health, methods=["GET"]),
    Route("/metrics", health.figures, methods=["GET"]),
)

_LINKS: Final = {202: "The job's id and links"}

OPERATIONS: Final = (
    Operation("/jobs", "POST", native.Submission, "Submit a job of any type of the protocol", answers=_LINKS),
    Operation("/jobs/{id}", "GET", None, "Tell how a job stands, and its result"),
    Operation("/jobs/{id}", "DELETE", None, "Cancel a job", answers=_LINKS),
    Operation(
        "/jobs/{id}/events",
        "GET",
        None,
        "Show a job's stream; an event's id is a point to resume from",
        answers={200: "The stream"},
        media="text/event-stream",
        parameters={"after": "The entry to go on behind", "Last-Event-ID": "The same, as browsers send it"},
    ),
    Operation(
        "/jobs/{id}/images/{number:int}",
        "GET",
        None,
        "Fetch an image of a job's result",
        answers={200: "The image", 302: "Where the image is"},
        media="image/png",
    ),
    Operation(
        "/jobs/{id}/preview",
        "GET",
        None,
        "Fetch the latest preview of a job's image while it runs",
        answers={200: "The preview"},
        media="image/jpeg",
    ),
    Operation("/queue/status", "GET", None, "Tell what waits and who works"),
    Operation("/livez", "GET", None, "Tell whether the gateway lives", public=True),
    Operation(
        "/readyz",
        "GET",
        None,
        "Tell whether it can serve",
        answers={200: "It can", 503: "It cannot, and why"},
        public=True,
    ),
    Operation("/health", "GET", None, "Tell how it is", public=True),
    Operation("/metrics", "GET", None, "Fetch figures for Prometheus", media="text/plain"),
)


def routes() -> list[Route]:
    """Return the gateway's own routes."""
    return dialect(ROUTES, error_body)
