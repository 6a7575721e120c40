"""Pictures that come with jobs are decoded in processes of their own, with limits, which a cancel ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, cast

import anyio
import orjson
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from velesio_worker.core.logs import get_logger
from velesio_worker.wire.errors import BadJobError, EngineUnavailableError, InternalError

AT_ONCE: Final = 2
"""So many jobs have their pictures decoded at a time: one whose pictures take long keeps no other waiting."""

CPU_SECONDS: Final = 10
"""How long a picture may take; one of SD_MAX_PIXELS takes a second or two, if it is to become a PNG."""

_MEMORY: Final = 1024 * 1024 * 1024
_BYTES_PER_PIXEL: Final = 32
_ENDS_SECONDS: Final = 5.0
_LONGEST_LINE: Final = 1024 * 1024
_KEPT: Final = ("PATH", "LANG", "LC_", "TMPDIR", "PYTHON", "LD_", "DYLD_")
"""How those variables begin that the process sees: no password is among them."""

_MODULE: Final = "velesio_worker.engines.webui.picture_process"
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead)

log = get_logger(__name__)


class PictureDecoder:
    """Decodes pictures in processes, which stay for the next job.

    An async context manager, which ends them, and may be entered again.

    Args:
        max_pixels: how many a picture may have.
        at_once: how many jobs' pictures are decoded at a time.
        cpu_seconds: how long one may take.
        environ: the environment, most of which the processes do not see; this process's by default.
    """

    def __init__(
        self,
        max_pixels: int,
        *,
        at_once: int = AT_ONCE,
        cpu_seconds: int = CPU_SECONDS,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._cpu_seconds = cpu_seconds
        limits = (max_pixels, cpu_seconds, _MEMORY + _BYTES_PER_PIXEL * max_pixels)
        self._command = [sys.executable, "-P", "-m", _MODULE, str(os.getpid()), *map(str, limits)]
        self._environ = {name: value for name, value in environ.items() if name.startswith(_KEPT)}
        self._turns = anyio.CapacityLimiter(at_once)
        self._idle: list[_Helper] = []
        self._helpers: set[_Helper] = set()
        self._closed = True

    async def __aenter__(self) -> Self:
        self._closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        for helper in list(self._helpers):
            await self._end(helper)

    async def check(self, pictures: Sequence[tuple[str, str]]) -> list[str]:
        """Decode a job's pictures; see :func:`velesio_worker.engines.webui.pictures.check_picture`.

        Args:
            pictures: name and base64 of each.

        Raises:
            BadJobError: one cannot be used, and why.
            EngineUnavailableError: the engine that they are for is gone.
            InternalError: there is no process that decodes them.
        """
        async with self._turns:
            head, changed = await self._ask(pictures)
        if (error := head.get("error")) is not None:
            raise BadJobError(error)
        return [picture if new is None else new for (_, picture), new in zip(pictures, changed, strict=True)]

    async def _ask(self, pictures: Sequence[tuple[str, str]]) -> tuple[dict[str, Any], list[str | None]]:
        while True:
            helper = await self._take()
            try:
                answer = await helper.ask(pictures)
            except _GONE:
                with anyio.move_on_after(_ENDS_SECONDS):
                    await helper.process.wait()  # a kill, asked for before asyncio saw the end, would hide how it ended
                await self._end(helper)
                code = helper.process.returncode
                if helper.used and code != -signal.SIGXCPU and not self._closed:
                    continue  # it may have ended while it had nothing to do
                raise self._lost(code) from None
            except BaseException:
                await self._end(helper)  # it is in the midst of something that nobody wants any more
                raise
            helper.used = True
            self._idle.append(helper)
            return answer

    async def _take(self) -> _Helper:
        """Return a process that has nothing to do."""
        if self._closed:
            raise EngineUnavailableError
        while self._idle:
            helper = self._idle.pop()
            if helper.process.returncode is None:
                return helper
            await self._end(helper)
        with anyio.CancelScope(shield=True):  # a process that exists has an owner, whatever happens
            return await self._start()
        raise AssertionError  # a shield swallows nothing

    async def _start(self) -> _Helper:
        try:
            process = await anyio.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,  # a Ctrl-C at the terminal is the worker's to hear
            )
        except OSError as error:
            raise InternalError(f"No process for pictures can be started: {error.strerror or error}.") from None
        helper = _Helper(process)
        self._helpers.add(helper)
        return helper

    async def _end(self, helper: _Helper) -> None:
        self._helpers.discard(helper)
        with anyio.CancelScope(shield=True):
            if helper.process.returncode is None:
                helper.process.kill()
            await helper.process.aclose()

    def _lost(self, code: int | None) -> BadJobError | EngineUnavailableError | InternalError:
        """Return what it means for a job that the process ended in the midst of it."""
        if self._closed:
            return EngineUnavailableError()
        if code == -signal.SIGXCPU:
            return BadJobError(f"The job's images take more than {self._cpu_seconds} s to decode: save them anew.")
        if code is not None and code < 0:
            return BadJobError(
                f"The job's images ended the process that decodes them (signal {-code}): save them anew."
            )
        log.error(f"the process that decodes pictures does not run: {code}", action="no_picture_process", code=code)
        return InternalError("The process that decodes pictures does not run.")


class _Helper:
    """One process.

    Attributes:
        used: whether it has answered before.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.used = False
        self._stdin = cast("ByteSendStream", process.stdin)
        self._stdout = BufferedByteReceiveStream(cast("ByteReceiveStream", process.stdout))

    async def ask(self, pictures: Sequence[tuple[str, str]]) -> tuple[dict[str, Any], list[str | None]]:
        """Have pictures decoded; returns the head of the answer, and what replaces each, None: nothing."""
        texts = [picture.encode(errors="replace") for _, picture in pictures]
        wanted = [(name, len(text)) for (name, _), text in zip(pictures, texts, strict=True)]
        for part in (orjson.dumps(wanted), b"\n", *texts):
            await self._stdin.send(part)
        head = orjson.loads(await self._stdout.receive_until(b"\n", _LONGEST_LINE))
        return head, [await self._text(length) for length in head.get("lengths", ())]

    async def _text(self, length: int | None) -> str | None:
        return None if length is None else (await self._stdout.receive_exactly(length)).decode()
