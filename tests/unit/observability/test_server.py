"""Health and metrics over HTTP: what is answered, by whom, and to whom not."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import pytest
from prometheus_client import CollectorRegistry, Counter

from tests.support.servers import free_port
from tests.support.waiting import until
from velesio_worker.observability import server as health_server
from velesio_worker.observability.health import Health
from velesio_worker.observability.server import MOST_OF_ONE, MOST_REQUESTS, HealthApp, served
from velesio_worker.wire.errors import SettingsError

pytestmark = pytest.mark.anyio

READY: Final[dict[str, Any]] = {"ready": True, "reasons": [], "engines": {"text": "ready"}}
HANDLER: Final = health_server._Handler  # pyright: ignore[reportPrivateUsage]
REPORT = {"worker": "w1", "ready": True}


@dataclass
class HealthDouble:
    """Says what it is told to say."""

    dead: list[str] = field(default_factory=list[str])
    unready: list[str] = field(default_factory=list[str])
    checks: int = 0
    worker: str = "w1"
    check_waits_for: anyio.Event | None = None

    def stuck(self) -> list[str]:
        return self.dead

    def readiness(self) -> dict[str, Any]:
        return READY | {"ready": not self.unready, "reasons": self.unready}

    async def check(self) -> Mapping[str, Any]:
        self.checks += 1
        if self.check_waits_for is not None:
            await self.check_waits_for.wait()
        return REPORT


@asynccontextmanager
async def serving(
    health: HealthDouble, host: str = "127.0.0.1", report_seconds: float = health_server.REPORT_SECONDS
) -> AsyncGenerator[int, None]:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc()
    serve = served(
        cast("Health", health), registry, host=host, port=free_port(), must=True, report_seconds=report_seconds
    )
    async with serve as port:
        yield port


def fetch(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, bytes, Mapping[str, str]]:
    """Ask once: status, body and headers."""
    with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}


async def asked(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, Any]:
    """Ask once, from another thread: status, and the body as JSON."""
    status, body, _ = await anyio.to_thread.run_sync(fetch, port, path, method, host)
    return status, json.loads(body)


async def test_a_worker_that_is_well_says_so() -> None:
    async with serving(HealthDouble()) as port:
        assert await asked(port, "/livez") == (200, {"alive": True, "reasons": []})
        assert await asked(port, "/readyz") == (200, READY)
        assert await asked(port, "/health") == (200, REPORT)


async def test_one_that_is_not_ready_lives() -> None:
    async with serving(HealthDouble(unready=["why"])) as port:
        assert (await asked(port, "/livez"))[0] == 200
        assert await asked(port, "/readyz") == (503, READY | {"ready": False, "reasons": ["why"]})
        assert (await asked(port, "/health"))[0] == 200


async def test_one_that_is_stuck_does_not() -> None:
    async with serving(HealthDouble(dead=["stuck"])) as port:
        assert await asked(port, "/livez") == (503, {"alive": False, "reasons": ["stuck"]})


async def test_a_query_is_no_part_of_the_path() -> None:
    async with serving(HealthDouble()) as port:
        assert (await asked(port, "/livez?verbose=1"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/Livez", "/livez/", "/livez/x", "/health/../metrics", "/favicon.ico", "/%00"])
async def test_another_path_is_told_which_there_are(path: str) -> None:
    async with serving(HealthDouble()) as port:
        status, answer = await asked(port, path)
        assert (status, answer) == (404, {"error": "there is /livez, /readyz, /health, /metrics"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", ["/livez", "/health", "/metrics"])
async def test_nothing_can_be_changed(method: str, path: str) -> None:
    health = HealthDouble()
    async with serving(health) as port:
        status, answer = await asked(port, path, method)
        assert (status, method in answer["error"]) == (405, True)
        assert health.checks == 0


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/nowhere"])
async def test_a_head_is_a_get_without_a_body(path: str) -> None:
    async with serving(HealthDouble()) as port:
        status, body, headers = await anyio.to_thread.run_sync(fetch, port, path)
        got = await anyio.to_thread.run_sync(fetch, port, path, "HEAD")
        assert got[:2] == (status, b"")
        assert got[2]["content-type"] == headers["content-type"]
        assert int(got[2]["content-length"]) == int(headers["content-length"]) == len(body)


async def test_metrics_are_prometheus_text() -> None:
    async with serving(HealthDouble()) as port:
        status, body, headers = await anyio.to_thread.run_sync(fetch, port, "/metrics")
        assert (status, b"things_total 1.0" in body) == (200, True)
        assert headers["content-type"].startswith("text/plain")


async def test_all_answers_come_while_the_loop_is_stuck_and_the_report_is_not_waited_for_ever() -> None:
    """The point of it all: a loop that does not move is when somebody asks."""
    answers: list[Any] = []

    def ask_all(port: int, over: threading.Event) -> None:
        try:
            answers.extend(fetch(port, "/health")[0] for _ in range(MOST_REQUESTS + 4))  # more than could be held up
            answers.extend(fetch(port, path)[0] for path in ("/livez", "/readyz", "/metrics"))
        except OSError as error:
            answers.append(error)
        finally:
            over.set()

    async with serving(HealthDouble(), report_seconds=0.02) as port:
        over = threading.Event()
        asking = threading.Thread(target=ask_all, args=(port, over))
        asking.start()
        assert over.wait(60)  # the loop does not move meanwhile
        await anyio.to_thread.run_sync(asking.join)
        assert answers == [503] * (MOST_REQUESTS + 4) + [200] * 3
        with anyio.fail_after(60):  # once it moves again
            while await asked(port, "/health") != (200, REPORT):
                pass


async def test_a_report_that_does_not_come_is_told_as_such() -> None:
    health = HealthDouble(check_waits_for=anyio.Event(), unready=["why"])
    async with serving(health, report_seconds=0.1) as port:
        status, answer = await asked(port, "/health")
        assert (status, answer["reasons"], answer["error"]) == (503, ["why"], "no answer within 0.1 s")


@pytest.mark.parametrize("error", [TimeoutError(), RuntimeError("the loop is closed")])
async def test_an_application_whose_loop_has_ended_says_what_it_knows(error: Exception) -> None:
    def report() -> Mapping[str, Any]:
        raise error

    app = HealthApp(cast("Health", HealthDouble()), report, CollectorRegistry())
    said: list[str] = []

    def start_response(status: str, _: object) -> None:
        said.append(status)

    (body,) = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/health"}, start_response)
    assert said == ["503 Service Unavailable"]
    assert json.loads(body)["engines"] == {"text": "ready"}


@pytest.mark.parametrize(
    ("host", "asks"),
    [("::1", "::1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("localhost", "localhost")],  # noqa: S104 (a test's own)
)
async def test_it_listens_where_it_is_told_to(host: str, asks: str) -> None:
    async with serving(HealthDouble(), host) as port:
        assert (await asked(port, "/livez", host=asks))[0] == 200


async def test_one_too_many_at_a_time_is_turned_away_and_the_next_is_not() -> None:
    health = HealthDouble(check_waits_for=anyio.Event())
    async with serving(health, report_seconds=30.0) as port:
        async with anyio.create_task_group() as group:
            for _ in range(MOST_OF_ONE):
                group.start_soon(partial(_expect, port, 200))
            await until(lambda: health.checks == MOST_OF_ONE)
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                await asked(port, "/livez")
            assert health.check_waits_for is not None
            health.check_waits_for.set()

        async def has_room() -> bool:
            try:
                return (await asked(port, "/livez"))[0] == 200
            except (ConnectionError, http.client.HTTPException):
                return False

        with anyio.fail_after(20):
            while not await has_room():
                await anyio.sleep(0.01)


async def _expect(port: int, status: int) -> None:
    limiter = anyio.CapacityLimiter(1)
    got, _, _ = await anyio.to_thread.run_sync(fetch, port, "/health", limiter=limiter)
    assert got == status


async def test_clients_that_send_nothing_are_dropped_and_occupy_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HANDLER, "timeout", 0.1)
    async with serving(HealthDouble()) as port:
        with ExitStack() as stack:
            silent = [
                stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=30)))
                for _ in range(MOST_REQUESTS)
            ]
            silent[0].sendall(b"GET /livez HTTP/1.1\r\nHost")  # nor does one that stops in the middle
            for connection in silent:
                assert await anyio.to_thread.run_sync(_is_closed, connection)
            with anyio.fail_after(20):
                while not await _answers(port):
                    await anyio.sleep(0.01)


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


async def _answers(port: int) -> bool:
    try:
        return (await asked(port, "/livez"))[0] == 200
    except (ConnectionError, http.client.HTTPException):
        return False


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET " + b"x" * 70_000,
        b"GET / HTTP/9.9\r\n\r\n",
    ],
    ids=["empty", "no request", "TLS", "a long line", "an unknown version"],
)
async def test_what_is_no_request_harms_nobody(
    request_: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(HANDLER, "timeout", 0.2)
    async with serving(HealthDouble()) as port:

        def send() -> None:
            with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
                connection.sendall(request_)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionError:
                    pass

        await anyio.to_thread.run_sync(send)
        assert (await asked(port, "/livez"))[0] == 200
    assert "Traceback" not in capfd.readouterr().err


async def test_a_client_that_leaves_without_its_answer_harms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(HealthDouble()) as port:

        def leave() -> None:
            for _ in range(20):
                with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")

        await anyio.to_thread.run_sync(leave)
        with anyio.fail_after(20):
            while not await _answers(port):
                await anyio.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err


async def test_one_that_cannot_have_a_thread_of_its_own_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container may be at its limit of threads for a while."""
    start: Callable[[threading.Thread], None] = threading.Thread.start
    refused: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if "process_request_thread" in thread.name and len(refused) < MOST_REQUESTS + 1:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    async with serving(HealthDouble()) as port:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with anyio.fail_after(30):
            while not await _answers(port):
                pass
        assert len(refused) == MOST_REQUESTS + 1


async def test_it_ends_at_once_and_its_port_is_free_then() -> None:
    health = HealthDouble(check_waits_for=anyio.Event())
    port = free_port()
    for _ in range(2):
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            async with served(
                cast("Health", health), CollectorRegistry(), host="127.0.0.1", port=port, must=True, report_seconds=60
            ):
                group.start_soon(_whatever_comes, port)
                checks = health.checks
                await until(lambda checks=checks: health.checks > checks)
            with pytest.raises(ConnectionRefusedError):
                await asked(port, "/livez")
        assert time.monotonic() - began < 8, "whoever asked waited until the time was up"


async def _whatever_comes(port: int) -> None:
    with suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
        await asked(port, "/health")


async def test_port_0_serves_nothing() -> None:
    async with served(cast("Health", HealthDouble()), CollectorRegistry(), host="nowhere", port=0, must=True) as port:
        assert port == 0


@pytest.mark.parametrize("must", [True, False])
async def test_an_address_that_is_taken_is_an_error_only_where_somebody_asked_for_it(
    caplog: pytest.LogCaptureFixture, *, must: bool
) -> None:
    await _cannot_be_had("127.0.0.1", caplog, must=must, taken=True)


@pytest.mark.parametrize("must", [True, False])
@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 70, "192.0.2.1", "::1::1"])
async def test_an_address_that_there_is_not_is_an_error_only_where_somebody_asked_for_it(
    host: str, caplog: pytest.LogCaptureFixture, *, must: bool
) -> None:
    await _cannot_be_had(host, caplog, must=must, taken=False)


async def _cannot_be_had(host: str, caplog: pytest.LogCaptureFixture, *, must: bool, taken: bool) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1] if taken else free_port()
        serve = served(cast("Health", HealthDouble()), CollectorRegistry(), host=host, port=port, must=must)
        sign = f"HEALTH_HOST={host} HEALTH_PORT={port}: nothing can listen there ("
        if must:
            with pytest.raises(SettingsError) as told:
                async with serve:
                    pass
            assert str(told.value).startswith(sign)
            assert "\n" not in str(told.value)
            return
        async with serve as got:
            assert got == 0
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert record.getMessage().startswith(sign)
        assert record.__dict__["action"] == "health_not_served"


def _begin(port: int, peer: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(peer, 0))
    with suppress(OSError):
        connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
    return connection


async def test_slow_connections_of_another_address_keep_nobody_from_an_answer() -> None:
    """They send a byte now and then, and come back when they are cut off."""

    def attack(port: int) -> list[int]:
        slow = [_begin(port, "127.0.0.2") for _ in range(64)]
        answers: list[int] = []
        try:
            for _ in range(20):
                for number, connection in enumerate(slow):
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        connection.close()
                        slow[number] = _begin(port, "127.0.0.2")
                answers.append(fetch(port, "/livez")[0])
        finally:
            for connection in slow:
                connection.close()
        return answers

    async with serving(HealthDouble()) as port:
        assert await anyio.to_thread.run_sync(attack, port) == [200] * 20


async def test_a_head_that_does_not_come_to_its_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_server, "HEAD_SECONDS", 0.2)

    def drip(port: int) -> bool:
        with closing(_begin(port, "127.0.0.1")) as connection:
            end = time.monotonic() + 5
            connection.settimeout(0.05)
            while time.monotonic() < end:
                try:
                    connection.sendall(b"a")
                    if not connection.recv(1):
                        return True
                except TimeoutError:
                    continue
                except OSError:
                    return True
        return False

    async with serving(HealthDouble()) as port:
        assert await anyio.to_thread.run_sync(drip, port)


@pytest.mark.parametrize(
    ("named", "status"),
    [
        *((host, 421) for host in ("evil.example.com", "evil.example.com:9090", "localhost.evil.example", "")),
        *((host, 200) for host in ("127.0.0.1:9090", "localhost", "LOCALHOST:9090", "[::1]:9090", "10.0.0.1")),
    ],
)
async def test_on_this_host_alone_no_other_name_is_answered(named: str, status: int) -> None:
    def ask(port: int, host: str) -> tuple[int, str]:
        with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
            connection.request("GET", "/health", headers={"Host": named})
            response = connection.getresponse()
            assert "server" not in {name.lower() for name, _ in response.getheaders()}
            return response.status, response.read().decode()

    async with serving(HealthDouble()) as port:
        found, body = await anyio.to_thread.run_sync(ask, port, "127.0.0.1")
        assert found == status
        assert ("w1" in body) == (status == 200)
    async with serving(HealthDouble(), host="0.0.0.0") as port:  # noqa: S104 (where others may ask it has any name)
        assert (await anyio.to_thread.run_sync(ask, port, "127.0.0.1"))[0] == 200
