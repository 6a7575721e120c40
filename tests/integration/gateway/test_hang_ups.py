"""Clients that leave: each time exactly their own jobs end, and nothing of them stays behind."""

from __future__ import annotations

import json
import re
import socket
import struct
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.gateway import ALICE, QUEUE, GatewayProcess, WorkerInRedis
from tests.support.servers import wait_until
from velesio_worker.queue.keys import cancel_key

CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hi."}]}


def request(method: str, path: str, body: Any = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


STREAMED = {**CHAT, "stream": True}
BEHIND = {
    "alone": b"",
    "with requests behind it": request("GET", "/livez") * 3,
    "with more requests behind it than are read": request("POST", "/v1/chat/completions", STREAMED) * 40,
    "with a body behind it that is not read": request("POST", "/jobs", "x" * 200_000),
}


def held(gateway: GatewayProcess) -> int:
    """How many connections the gateway has whose clients are gone."""
    found = gateway.system_process.net_connections("tcp")
    return sum(one.status == psutil.CONN_CLOSE_WAIT for one in found)


IMAGE = {"prompt": "A cat."}
STAGES = {
    "in front of its body": request("POST", "/jobs", CHAT).partition(b"{")[0],
    "in its body": request("POST", "/jobs", CHAT)[:-9],
    "in its body, with an answer that goes on": request("POST", "/v1/chat/completions", STREAMED)[:-9],
    "while its job waits": request("POST", "/v1/chat/completions", STREAMED),
    "while its job waits, for a whole answer": request("POST", "/v1/messages", {**CHAT, "max_tokens": 9}),
    "while its image's job waits": request("POST", "/sdapi/v1/txt2img", IMAGE),
    "with requests behind it": request("POST", "/v1/chat/completions", STREAMED) * 50,
    "in the answer": request("POST", "/completion", {"prompt": "Once", "stream": True}),
}


def viewers(client: httpx.Client) -> float:
    found = re.search(r"^velesio_gateway_viewers (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def until(connection: socket.socket, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        piece = connection.recv(65536)
        assert piece, found
        found += piece
    return found


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("moment", ["waiting", "speaking"])
def test_a_client_that_hangs_up_has_its_job_cancelled(
    alice: httpx.Client,
    gateway: GatewayProcess,
    worker: WorkerInRedis,
    plain: Any,
    *,
    behind: bytes,
    streams: bool,
    moment: str,
) -> None:
    assert alice
    with gateway.connect() as connection:
        connection.sendall(request("POST", "/v1/chat/completions", {**CHAT, "stream": streams}))
        job = worker.take()
        connection.sendall(behind)
        if moment == "speaking":
            worker.begin(job["id"])
            choice = {"delta": {"content": "Hel"}, "index": 0, "finish_reason": None}
            worker.write(job["id"], "1-1", "token", {"choices": [choice]})
            if streams:
                until(connection, b"Hel")
    wait_until(lambda: plain.exists(cancel_key(job["id"])), "the job is cancelled", 5)
    wait_until(lambda: held(gateway) == 0, "the connection is closed", 5)
    assert worker.take_if_any() is None


@pytest.mark.parametrize("breaks", [False, True], ids=["closes", "breaks off"])
def test_whenever_a_client_hangs_up_its_request_counts_no_more(
    tmp_path: Path, redis_url: str, plain: Any, *, breaks: bool
) -> None:
    worker = WorkerInRedis(plain)
    worker.live()
    settings = {"API_TOKENS": f"alice={ALICE}", "CONCURRENCY_LIMIT": "1"}
    with GatewayProcess(tmp_path, redis_url, **settings) as gateway, gateway.client(ALICE) as alice:

        def answered(status: int) -> bool:
            return alice.get("/queue/status").status_code == status

        for stage, sent in STAGES.items():
            plain.delete(QUEUE)
            with gateway.connect() as connection:
                if breaks:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(sent)
                wait_until(lambda: answered(429), f"it counts {stage}")
                if stage == "in the answer":
                    job_id = worker.take()["id"]
                    worker.begin(job_id)
                    worker.say(job_id, 1, "upon")
                    until(connection, b"upon")
            wait_until(lambda: answered(200), f"it counts no more, gone {stage}", 10)
        with gateway.connect() as connection:  # what is counted off twice would let a second one in
            connection.sendall(STAGES["in its body"])
            wait_until(lambda: answered(429), "the next one counts")
        assert not gateway.lines("request_failed")


def test_a_viewer_with_requests_behind_its_own_leaves_nothing_behind(
    alice: httpx.Client, gateway: GatewayProcess, worker: WorkerInRedis
) -> None:
    job_id = alice.post("/jobs", json={"type": "completion", "data": {"prompt": "Once", "stream": True}}).json()["id"]
    worker.begin(job_id)
    wait_until(lambda: viewers(alice) == 0, "nobody else looks")
    with gateway.connect() as connection:
        connection.sendall(request("GET", f"/jobs/{job_id}/events"))
        until(connection, b"id: 1-0")
        connection.sendall(request("GET", "/livez") * 3)
        worker.say(job_id, 1, "a")
        until(connection, b"id: 1-1")
        assert viewers(alice) == 1
    worker.say(job_id, 2, "a")  # what is behind is not read meanwhile, nor is the end: a write finds it
    worker.say(job_id, 3, "a")
    wait_until(lambda: viewers(alice) == 0, "it is gone", 5)
