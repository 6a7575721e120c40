"""What clients do wrong: each is told, in bounded time and memory, and nobody else is slower."""

from __future__ import annotations

import itertools
import json
import socket
import time
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.support.gateway import ALICE, GatewayProcess, WorkerInRedis, received
from tests.support.servers import wait_until

NO_REQUESTS = [b"GET * HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET /\xff HTTP/1.1", b"\x16\x03"]
NESTED = b'{"type": "completion", "data": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}"
COMPLETION = {"type": "completion", "data": {"prompt": "Once"}}


def error(response: httpx.Response) -> dict[str, Any]:
    return response.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {ALICE}"},
        {"authorization": ALICE},
        {"x-api-key": f"{ALICE}x"},
        {"x-api-key": "ä".encode()},
    ],
)
def test_without_a_token_that_is_known_nothing_is_told(gateway: GatewayProcess, headers: dict[str, Any]) -> None:
    with gateway.client() as client:
        for method, path in (("POST", "/jobs"), ("GET", "/jobs/x"), ("GET", "/queue/status"), ("GET", "/metrics")):
            response = client.request(method, path, headers=headers)
            assert (response.status_code, error(response)["code"]) == (401, "invalid_api_key")
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.get(f"/queue/status?api_key={ALICE}&x-api-key={ALICE}", headers=headers).status_code == 401


@pytest.mark.usefixtures("worker")
def test_a_token_comes_as_bearer_or_as_a_key(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        for headers in ({"authorization": f"bearer {ALICE}"}, {"x-api-key": ALICE}):
            assert client.get("/queue/status", headers=headers).status_code == 200


def test_a_token_stands_in_no_line_of_the_log(alice: httpx.Client, gateway: GatewayProcess) -> None:
    assert alice.get(f"/queue/status?secret={ALICE}").status_code == 200
    assert alice.get(f"/nowhere/{ALICE}").status_code == 404
    gateway.wait_for("request", 2)
    assert ALICE not in gateway.text()


def test_a_route_that_is_none_and_a_method_that_is_not_allowed(alice: httpx.Client) -> None:
    assert error(alice.get("/nope"))["code"] == "not_found"
    response = alice.put("/jobs/x")
    assert (response.status_code, error(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE, GET, HEAD"
    assert alice.options("/jobs").headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/../metrics",
        "/jobs/%2e%2e/metrics",
        "/jobs/..%2fmetrics",
        "//jobs",
        "/jobs//events",
        "/jobs/%00",
        "/jobs/a%2fb",
        "/jobs/x/events/..",
        "/jobs/x/images/-1",
        "/jobs/x/images/99999999999999999999999",
        "/jobs/" + "x" * 20_000,
        "/JOBS",
        "/jobs/",
        "/jobs/%ff",
        "/jobs/*",
    ],
)
def test_tricks_with_paths_lead_nowhere(gateway: GatewayProcess, path: str) -> None:
    with gateway.connect() as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        assert received(connection).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "request_line", [b"GET * HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET /\xff HTTP/1.1", b"\x16\x03"]
)
def test_what_is_no_request_is_told_so(gateway: GatewayProcess, request_line: bytes) -> None:
    with gateway.connect() as connection:
        connection.sendall(request_line + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 40")


def test_a_body_that_is_too_large_is_refused_by_its_length_before_it_is_sent(gateway: GatewayProcess) -> None:
    with gateway.connect() as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nExpect: 100-continue\r\n"
        connection.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_is_too_large_is_refused_in_pieces_too(alice: httpx.Client) -> None:
    pieces = itertools.repeat(b" " * 8192, 64)
    response = alice.post("/jobs", content=pieces, headers={"content-type": "application/json"})
    assert (response.status_code, error(response)["code"]) == (413, "too_large")
    response = alice.post("/jobs", content=b" " * 100_000, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert alice.get("/livez").status_code == 200  # on the same connection


def test_a_body_without_end_that_nobody_wants_is_cut_off(gateway: GatewayProcess) -> None:
    with gateway.connect() as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        begun = time.monotonic()
        while time.monotonic() < begun + 30:
            try:
                connection.sendall(b"2000\r\n" + b" " * 8192 + b"\r\n")
            except OSError:
                return
            time.sleep(0.01)
        pytest.fail("it went on and on")


@pytest.mark.parametrize(
    ("kind", "body", "status", "param"),
    [
        ("text/plain", b"{}", 415, None),
        ("application/json", b"{", 400, None),
        ("application/json", b"[]", 400, None),
        ("application/json", b"\xff", 400, None),
        ("application/json", b"{}", 400, "type"),
        ("application/json", b'{"type": 1}', 400, "type"),
        ("application/json", b'{"type": "nope"}', 400, None),
        ("application/json", b'{"type": "completion", "data": []}', 400, "data"),
        ("application/json", b'{"type": "completion", "data": {}}', 400, "data.prompt"),
        (
            "application/json",
            b'{"type": "completion", "data": {"prompt": "a", "temperature": "b"}}',
            400,
            "data.temperature",
        ),
        ("application/json", b'{"type": "completion", "data": {"prompt": "a"}, "timeout": -1}', 400, None),
        (
            "application/json",
            b'{"type": "completion", "data": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}",
            400,
            None,
        ),
    ],
)
def test_a_body_that_is_wrong_is_told_what_is(
    alice: httpx.Client, kind: str, body: bytes, status: int, param: str | None
) -> None:
    response = alice.post("/jobs", content=body, headers={"content-type": kind})
    assert (response.status_code, error(response)["param"]) == (status, param), response.text


def test_a_body_that_comes_too_slowly_is_given_up(gateway: GatewayProcess) -> None:
    with gateway.connect() as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        begun = time.monotonic()
        assert received(connection).startswith(b"HTTP/1.1 408 ")
        assert 1 < time.monotonic() - begun < 20


def test_half_a_head_is_given_up_however_it_trickles(gateway: GatewayProcess) -> None:
    with gateway.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /livez HTTP/1.1\r\nX: ")
        connection.settimeout(0.2)
        found, begun = b"", time.monotonic()
        while time.monotonic() < begun + 30:
            try:
                connection.sendall(b"x")
                piece = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            found += piece
            if not piece:
                break
        assert found.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in found
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize("head", [b"X: " + b"y" * 70_000, b"".join(b"X%d: y\r\n" % n for n in range(9000)) + b"Z: "])
def test_a_head_that_is_too_large_is_refused(gateway: GatewayProcess, head: bytes) -> None:
    with gateway.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + head)
        assert received(connection).startswith(b"HTTP/1.1 431 ")


def test_a_thousand_connections_that_send_nothing_cost_little_and_are_closed(gateway: GatewayProcess) -> None:
    with gateway.client() as client, ExitStack() as stack:
        assert client.get("/livez").status_code == 200
        before = gateway.memory
        silent = [stack.enter_context(gateway.connect()) for _ in range(1000)]
        assert client.get("/livez").status_code == 200
        assert gateway.memory - before < 30 * 1024 * 1024
        for connection in silent:
            assert received(connection) == b""

    wait_until(lambda: gateway.system_process.num_fds() < 100, "their files are closed")


def test_what_comes_before_a_broken_body_is_answered_and_so_is_that(gateway: GatewayProcess) -> None:
    head = f"POST /jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\n".encode()
    with gateway.connect() as connection:
        connection.sendall(
            b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" + head + b"Content-Length: 2\r\n\r\n{}"
            + head + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n"
        )  # fmt: skip
        found = received(connection)
    assert [found[at + 9 : at + 12] for at in range(len(found)) if found.startswith(b"HTTP/1.1 ", at)] == [
        *(b"200", b"400", b"400")
    ]
    assert found.endswith(b'"message":"This is no HTTP request.","param":null}}')


@pytest.mark.parametrize("filler", ["/events?x={} HTTP/1.1\r\nX: y", "/events HTTP/1.1\r\nX: {}"])
def test_of_what_a_viewer_asked_next_to_nothing_is_kept_while_it_looks(
    alice: httpx.Client, gateway: GatewayProcess, worker: WorkerInRedis, filler: str
) -> None:
    job_id = alice.post("/jobs", json=COMPLETION).json()["id"]
    worker.begin(job_id)
    target = f"/jobs/{job_id}{filler.format('y' * 60_000)}"
    request = f"GET {target}\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\n\r\n".encode()
    with ExitStack() as stack:

        def view(number: int) -> None:
            for _ in range(number):
                connection = stack.enter_context(gateway.connect())
                connection.sendall(request)
                assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")

        view(50)  # what is needed for a while is there from now on
        before = gateway.memory
        view(200)
        assert gateway.memory - before < 200 * 25_000


def test_of_a_prompt_nothing_is_kept_while_it_is_answered(gateway: GatewayProcess, worker: WorkerInRedis) -> None:
    body = json.dumps({"model": "small", "stream": True, "prompt": "y" * 60_000}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nContent-Length: {len(body)}"
    with ExitStack() as stack:

        def ask(number: int) -> None:
            for _ in range(number):
                connection = stack.enter_context(gateway.connect())
                connection.sendall(head.encode() + b"\r\n\r\n" + body)
                job_id = worker.take()["id"]
                worker.begin(job_id)
                worker.say(job_id, 1, "a")
                assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")

        ask(30)  # what is needed for a while is there from now on
        before = gateway.memory
        ask(100)
        assert gateway.memory - before < 100 * 40_000


def test_many_requests_at_once_on_a_connection_are_answered_each(gateway: GatewayProcess) -> None:
    with gateway.connect() as connection:
        request = f"POST /jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nContent-Length: 2\r\n\r\n{{}}"
        connection.sendall(request.encode() * 2000 + b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        found = received(connection)
    assert found.count(b"HTTP/1.1 400 ") == 2000
    assert b"HTTP/1.1 200 " in found


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_request_that_would_rather_speak_another_protocol_is_answered_with_its_body(
    alice: httpx.Client, gateway: GatewayProcess, *, protocol: str, chunked: bool, waits: bool
) -> None:
    assert alice
    body = b'{"type": "completion", "data": {"prompt": "Once"}}'
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = f"POST /jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    head += f"Upgrade: {protocol}\r\nHTTP2-Settings: AAEAAEAA\r\n{length}\r\n\r\n"
    head = head.replace("HTTP2-Settings: A", "Expect: 100-continue\r\nHTTP2-Settings: A") if waits else head
    told = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with gateway.connect() as connection:
        told += b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() if waits else head.encode() + told)
        if waits:
            assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
            connection.sendall(told)
        found = received(connection)
    assert found.startswith(b"HTTP/1.1 202 ")
    assert b"HTTP/1.1 200 " in found


def test_head_is_answered_without_a_body(alice: httpx.Client) -> None:
    got, asked = alice.get("/queue/status"), alice.head("/queue/status")
    assert asked.content == b""
    assert asked.headers["content-length"] == got.headers["content-length"]


def test_web_pages_of_the_origins_that_are_named_may_ask(alice: httpx.Client, gateway: GatewayProcess) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    with gateway.client() as stranger:  # browsers send no token with it
        response = stranger.options("/jobs", headers={"origin": "https://chat.example.org", **asked})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://chat.example.org"
        assert "authorization" in response.headers["access-control-allow-headers"]
        assert stranger.options("/jobs", headers={"origin": "https://evil.example", **asked}).status_code == 400
    for origin, allowed in (("https://chat.example.org", True), ("https://evil.example", False)):
        response = alice.get("/queue/status", headers={"origin": origin})
        assert ("access-control-allow-origin" in response.headers) is allowed


def test_every_answer_has_headers_that_keep_browsers_from_guessing(alice: httpx.Client) -> None:
    for path in ("/livez", "/nope", "/jobs/x"):
        headers = alice.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert len(headers["x-request-id"]) == 16
        assert "server" not in headers


def test_a_line_in_the_log_tells_of_a_request_without_what_was_asked(
    alice: httpx.Client, gateway: GatewayProcess
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    traceparent = f"00-{trace}-00f067aa0ba902b7-01"
    response = alice.post(
        "/jobs?q=SECRETWORD", json=COMPLETION | {"session": "s"}, headers={"traceparent": traceparent}
    )
    assert response.status_code == 202
    wait_until(
        lambda: [line for line in gateway.lines("request") if line["request"] == response.headers["x-request-id"]],
        "the line is there",
    )
    [line] = [line for line in gateway.lines("request") if line["request"] == response.headers["x-request-id"]]
    told = {name: line[name] for name in ("method", "route", "status", "caller", "trace_id", "jobs")}
    job_id = response.json()["id"]
    assert told == {
        "method": "POST",
        "route": "/jobs",
        "status": 202,
        "caller": "alice",
        "trace_id": trace,
        "jobs": job_id,
    }
    assert "SECRETWORD" not in gateway.text()
    assert "Once" not in gateway.text()


def test_a_client_that_hangs_up_in_mid_body_leaves_no_error(gateway: GatewayProcess, alice: httpx.Client) -> None:
    connection = gateway.connect()
    head = f"POST /jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nContent-Length: 100\r\n\r\n{{"
    connection.sendall(head.encode())
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    wait_until(lambda: [line for line in gateway.lines("request") if line["status"] == 499], "it is seen")
    assert alice.get("/livez").status_code == 200
    assert not gateway.lines("request_failed")
