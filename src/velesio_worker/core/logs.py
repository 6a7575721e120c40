"""Log lines: one per event, with a machine-readable ``action``, as JSON or for people."""

from __future__ import annotations

import logging
import sys
import textwrap
from contextlib import AbstractContextManager
from typing import Any, Final

import orjson
import structlog

from velesio_worker.core.settings import LogFormat
from velesio_worker.core.terminal import has_colours
from velesio_worker.wire.printable import printable, printable_json

ENGINES: Final = ("llama-server", "webui")
"""The loggers of what engines write. Less than warnings are shown with ``LOG_LEVEL=debug`` only."""


_OF_SEVERAL_LINES: Final = ("exception", "stack")
_MARGIN: Final = "    "


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module or of an engine.

    It hands its lines to the standard library's logging, with their fields as ``extra``; so a program that imports
    the client decides by itself what becomes of them.
    """
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def fields_in_log(**fields: str | int) -> AbstractContextManager[None]:
    """Have every line that is logged in the context, and in tasks begun there, carry these fields; its own win."""
    return structlog.contextvars.bound_contextvars(**fields)


def field_in_log(name: str) -> Any:  # noqa: ANN401 (a field of the log)
    """Return a field that every line in this context carries; None if there is none of the name."""
    return structlog.contextvars.get_contextvars().get(name)


def _dumps(event: dict[str, Any], **_: Any) -> str:  # noqa: ANN401 (structlog's serializer interface)
    return printable_json(orjson.dumps(event, default=str).decode())


def _escape(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Write out control characters in all that a line for people shows: one event is one line, whoever wrote its words.

    Tracebacks keep their lines, moved to the right, so that none of them can pass for an event.
    """
    for name, value in event.items():
        if name in _OF_SEVERAL_LINES and value is not None:
            event[name] = textwrap.indent(printable(str(value), keep="\n"), _MARGIN)
        elif isinstance(value, str):
            event[name] = printable(value)
    return event


def configure_logging(level: str, log_format: LogFormat, *, worker: str | None = None) -> None:
    """Send every log line, of this package and of libraries, to standard error in one shape.

    Args:
        level: the least important level that is shown, such as ``INFO``.
        log_format: JSON objects or lines for people.
        worker: the worker's id, which every line then carries.
    """

    def say_whose(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if worker is not None:
            event.setdefault("worker", worker)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.ExtraAdder(),
        say_whose,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer(serializer=_dumps)]
        if log_format is LogFormat.JSON
        else [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=has_colours(sys.stderr), event_key="message", timestamp_key="time", pad_event_to=0
            ),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    for engine in ENGINES:  # they write several lines for every job
        logging.getLogger(engine).setLevel(
            root.level if root.level <= logging.DEBUG else max(logging.WARNING, root.level)
        )
