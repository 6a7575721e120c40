"""The gateway as processes: how it begins, how it ends, and what becomes of those who are there then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.gateway.test_native import COMPLETION, events, submitted
from tests.support.environment import base_environment
from tests.support.gateway import ALICE, GatewayProcess, WorkerInRedis, received
from tests.support.processes import is_there
from tests.support.servers import free_port, wait_until


def refused(**settings: str) -> str:
    """Start a gateway that cannot be started; returns what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "velesio_worker", "gateway"],
        env={**base_environment(), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_without_tokens_it_listens_on_loopback_only() -> None:
    said = refused(GATEWAY_HOST="0.0.0.0", GATEWAY_PORT=str(free_port()))  # noqa: S104
    assert "GATEWAY_HOST='0.0.0.0'" in said
    assert "set API_TOKENS" in said


def test_without_tokens_it_says_so_and_answers_no_name_that_a_page_may_have_turned_here(
    tmp_path: Path, redis_url: str
) -> None:
    with GatewayProcess(tmp_path, redis_url) as gateway, gateway.client() as client:
        assert gateway.lines("no_tokens")
        for own in ("localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8080", "192.168.0.1"):
            assert client.get("/livez", headers={"host": own}).status_code == 200
        for foreign in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example"):
            response = client.get("/livez", headers={"host": foreign})
            assert (response.status_code, response.json()["error"]["code"]) == (421, "misdirected_request")
        assert client.get("/queue/status").status_code == 200


def test_without_tokens_a_foreign_page_has_its_readers_browser_do_nothing(tmp_path: Path, redis_url: str) -> None:
    """A browser sends such requests without asking before: they have no Content-Type that it would ask for."""
    settings = {"CORS_ORIGINS": "https://chat.example.org"}
    with GatewayProcess(tmp_path, redis_url, **settings) as gateway, gateway.client() as client:
        body = b'{"type": "completion"}'
        for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1:1"):
            for path, content in (("/jobs", body), ("/v1/chat/completions", body), ("/sdapi/v1/interrupt", b"")):
                response = client.post(path, content=content, headers={"origin": origin})
                assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_origin")
        for origin in ("https://chat.example.org", gateway.url):
            assert client.post("/sdapi/v1/interrupt", headers={"origin": origin}).status_code == 200
        assert client.post("/sdapi/v1/interrupt").status_code == 200
        assert client.get("/livez", headers={"origin": "https://evil.example"}).status_code == 200


def test_with_tokens_any_name_is_answered(tmp_path: Path, redis_url: str) -> None:
    settings = {"API_TOKENS": ALICE, "GATEWAY_HOST": "0.0.0.0"}  # noqa: S104
    with GatewayProcess(tmp_path, redis_url, **settings) as gateway, gateway.client() as client:
        assert client.get("/livez", headers={"host": "chat.example.org"}).status_code == 200


def test_a_port_that_is_taken_and_an_address_that_is_none_are_told(tmp_path: Path, redis_url: str) -> None:
    with GatewayProcess(tmp_path, redis_url) as gateway:
        said = refused(GATEWAY_PORT=str(gateway.port))
        assert f"GATEWAY_PORT={gateway.port}: nothing can listen there (Address already in use)" in said
    said = refused(API_TOKENS="x", GATEWAY_HOST="203.0.113.1", GATEWAY_PORT=str(free_port()))
    assert "GATEWAY_HOST has to be an address of this host" in said


def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('gone', name='uvicorn')")
    environment = base_environment()
    path = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "velesio_worker", "gateway"],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "the gateway needs uvicorn" in done.stderr
    assert "pip install 'velesio-worker[gateway]'" in done.stderr


def test_it_starts_without_redis_and_says_that_it_is_not_ready(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path, f"redis://127.0.0.1:{free_port()}") as gateway, gateway.client() as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").json() == {"ready": False, "reasons": ["Redis does not answer"]}
        for response in (client.post("/jobs", json=COMPLETION), client.get("/queue/status")):
            assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_unavailable")
            assert response.headers["retry-after"]
        assert client.get("/metrics").status_code == 200
        assert gateway.stop() == 0


def test_sigterm_lets_a_running_request_end_and_takes_no_new_one(tmp_path: Path, redis_url: str) -> None:
    with GatewayProcess(tmp_path, redis_url, BODY_SECONDS="20") as gateway, gateway.connect() as connection:
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
        with gateway.client() as client:
            client.get("/livez")  # by now the other one runs
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_for("gateway_stopping")
        with pytest.raises(OSError):
            gateway.connect().close()
        connection.sendall(b"}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert gateway.process.wait(30) == 0


def test_sigterm_cuts_off_what_does_not_end_in_time(tmp_path: Path, redis_url: str) -> None:
    with (
        GatewayProcess(tmp_path, redis_url, BODY_SECONDS="60", DRAIN_SECONDS="0.5") as gateway,
        gateway.connect() as connection,
    ):
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
        with gateway.client() as client:
            client.get("/livez")
        begun = time.monotonic()
        assert gateway.stop() == 0
        assert 0.4 < time.monotonic() - begun < 20
        assert gateway.lines("requests_cut_off")[0]["requests"] == 1
        assert b'"code":"stopped"' in received(connection)
        assert "Traceback" not in gateway.text()


def test_a_second_signal_ends_it_at_once(tmp_path: Path, redis_url: str) -> None:
    with (
        GatewayProcess(tmp_path, redis_url, BODY_SECONDS="600", DRAIN_SECONDS="600") as gateway,
        gateway.connect() as connection,
    ):
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
        with gateway.client() as client:
            client.get("/livez")
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGINT)
        gateway.wait_for("gateway_stopping")
        assert gateway.stop() == 0


def test_sigterm_tells_viewers_where_to_resume(tmp_path: Path, redis_url: str, plain: Any) -> None:
    worker = WorkerInRedis(plain)
    worker.live()
    with GatewayProcess(tmp_path, redis_url) as gateway, gateway.client() as client:
        job_id = submitted(client)
        worker.begin(job_id)
        worker.say(job_id, 1, "a")
        with client.stream("GET", f"/jobs/{job_id}/events") as response:
            seen = events(response.iter_lines())
            assert [next(seen)[0], next(seen)[0]] == ["1-0", "1-1"]
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            [(_, event, data)] = list(seen)
            assert (event, data) == ("closed", {"reason": "stopped", "after": "1-1"})
        assert gateway.process.wait(30) == 0


def test_a_viewer_goes_on_at_another_gateway_when_its_own_is_killed(tmp_path: Path, redis_url: str, plain: Any) -> None:
    worker = WorkerInRedis(plain)
    worker.live()
    tokens = {"API_TOKENS": f"alice={ALICE}"}
    first, second = (GatewayProcess(tmp_path, redis_url, **tokens) for _ in range(2))
    found: list[str] = []
    with first, first.client(ALICE) as client:
        job_id = submitted(client)
        worker.begin(job_id)
        for number in range(1, 20):
            worker.say(job_id, number, str(number))
        with client.stream("GET", f"/jobs/{job_id}/events") as response:
            seen = events(response.iter_lines())
            while len(found) < 10:
                found.append(next(seen)[0])
            assert first.process is not None
            first.process.kill()
            with suppress(httpx.TransportError):
                found += [entry for entry, _, _ in seen]
    for number in range(20, 30):
        worker.say(job_id, number, str(number))
    worker.end(job_id, 30, {"text": "", "finish_reason": "stop"})
    with second, second.client(ALICE) as client:
        response = client.get(f"/jobs/{job_id}/events", headers={"last-event-id": found[-1]})
        found += [entry for entry, _, _ in events(iter(response.text.splitlines()))]
    assert found == [f"1-{number}" for number in range(31)]


def test_several_processes_share_a_port_and_one_that_is_lost_is_replaced(tmp_path: Path, redis_url: str) -> None:
    with GatewayProcess(tmp_path, redis_url, "--processes", "2") as gateway:
        gateway.wait_for("gateway_ready", 2)
        first = {child.pid: child for child in gateway.children()}
        assert len(first) == 2

        def ask(_: int) -> int:
            with gateway.client() as client:
                return client.get("/health").status_code

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(ask, range(40))) == {200}
        with gateway.client() as client:
            assert 'velesio_gateway_requests_total{route="/health",status="200"} 40.0' in client.get("/metrics").text
        lost = next(iter(first))
        os.kill(lost, signal.SIGKILL)
        assert gateway.wait_for("gateway_process_lost")["pid"] == lost
        gateway.wait_for("gateway_ready", 3)
        assert ask(0) == 200
        assert len(gateway.children()) == 2
        children = gateway.children()
        assert gateway.stop() == 0
        assert not any(map(is_there, children))


@pytest.mark.parametrize("more", [["SIGTERM"], ["SIGTERM", "SIGTERM"]], ids=len)
def test_processes_that_are_all_signalled_let_requests_end_unless_it_is_meant(
    tmp_path: Path, redis_url: str, more: list[str]
) -> None:
    settings = {"BODY_SECONDS": "600", "DRAIN_SECONDS": "600"}
    with GatewayProcess(tmp_path, redis_url, "--processes", "2", **settings) as gateway:
        gateway.wait_for("gateway_ready", 2)
        with gateway.connect() as connection:
            connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
            busy = wait_for_its_process(gateway, connection)
            assert gateway.process is not None
            for process in gateway.children():  # as systemd does
                process.terminate()
            gateway.process.send_signal(signal.SIGTERM)
            gateway.wait_for("gateway_stopping", 2)
            gateway.wait_for("gateway_processes_ending")  # two signals that wait for a process are one
            assert is_there(busy)
            for name in more[1:]:
                gateway.process.send_signal(signal.Signals[name])
            if more[1:]:
                assert received(connection).startswith(b"HTTP/1.1 503 ")
            else:
                connection.sendall(b"}")
                assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
            assert gateway.process.wait(30) == 0


def wait_for_its_process(gateway: GatewayProcess, connection: socket.socket) -> psutil.Process:
    """Wait until one of the processes has taken a connection; returns it."""
    port = connection.getsockname()[1]

    def takers() -> list[psutil.Process]:
        return [
            child
            for child in gateway.children()
            if any(one.raddr and one.raddr[1] == port for one in child.net_connections("tcp4"))
        ]

    wait_until(takers, "it is taken")
    return takers()[0]


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path, redis_url: str) -> None:
    with GatewayProcess(tmp_path, redis_url, "--processes", "2") as gateway:
        gateway.wait_for("gateway_ready", 2)
        children = gateway.children()
        assert gateway.process is not None
        gateway.process.kill()
        gateway.process.wait(30)
        wait_until(lambda: not any(map(is_there, children)), "they have ended")


def test_it_allows_itself_as_many_files_as_the_host_does(tmp_path: Path, redis_url: str) -> None:
    with GatewayProcess(tmp_path, redis_url) as gateway:
        assert gateway.process is not None
        soft, hard = psutil.Process(gateway.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert soft == hard


def test_pages_of_any_origin_may_ask_with_a_token_that_they_know_and_with_none_that_the_browser_does(
    tmp_path: Path, redis_url: str, plain: Any
) -> None:
    WorkerInRedis(plain).live()
    settings = {"API_TOKENS": f"alice={ALICE}", "CORS_ORIGINS": "*"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    page = {"origin": "https://evil.example", "cookie": "session=1"}
    with (
        GatewayProcess(tmp_path, redis_url, **settings) as gateway,
        gateway.client() as stranger,
        gateway.client(ALICE) as alice,
    ):
        answers = [
            stranger.options("/jobs", headers=page | asked),
            alice.get("/queue/status", headers=page),
            alice.post("/jobs", json={"type": "completion", "data": {"prompt": "Once"}}, headers=page),
            stranger.get("/queue/status", headers=page),
        ]
    assert [response.status_code for response in answers] == [200, 200, 202, 401]
    assert all(one.headers["access-control-allow-origin"] in {"*", "https://evil.example"} for one in answers)
    assert not any("access-control-allow-credentials" in response.headers for response in answers)
    assert answers[-1].headers["www-authenticate"].startswith("Bearer ")  # for Basic a browser would ask, and keep it


def test_rates_and_requests_at_a_time_are_limited_by_token(tmp_path: Path, redis_url: str, plain: Any) -> None:
    WorkerInRedis(plain).live()
    settings = {"API_TOKENS": f"alice={ALICE},bob=b", "RATE_LIMIT": "3/minute", "CONCURRENCY_LIMIT": "1"}
    with (
        GatewayProcess(tmp_path, redis_url, **settings) as gateway,
        gateway.client(ALICE) as alice,
        gateway.client("b") as bob,
        closing(gateway.connect()) as slow,
    ):
        slow.sendall(b"POST /jobs HTTP/1.1\r\nHost: a\r\nx-api-key: b\r\nContent-Length: 9\r\n\r\n{")
        wait_until(lambda: bob.get("/queue/status").status_code == 429, "bob's other request runs")
        response = bob.get("/queue/status")
        assert (response.json()["error"]["code"], response.headers["retry-after"]) == ("rate_limit_exceeded", "1")
        assert [alice.get("/queue/status").status_code for _ in range(4)] == [200, 200, 200, 429]
        response = alice.get("/queue/status")
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert 50 <= int(response.headers["retry-after"]) <= 61
        assert alice.get("/livez").status_code == 200


def test_requests_that_are_wrong_are_not_more_work_together(tmp_path: Path, redis_url: str) -> None:
    """A flood of bad requests leaves the gateway as quick as it was."""
    with GatewayProcess(tmp_path, redis_url, API_TOKENS=ALICE) as gateway, gateway.client() as client:
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                with closing(gateway.connect()) as connection:
                    connection.sendall(b"\x00\x01nonsense\r\n\r\n")
                    connection.recv(4096)

        with ThreadPoolExecutor(4) as threads:
            for _ in range(4):
                threads.submit(flood)
            try:
                assert all(client.get("/livez").status_code == 200 for _ in range(50))
            finally:
                stop.set()
        assert len(gateway.text()) < 100_000
