from __future__ import annotations

import ssl
from base64 import b64encode
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from tests.doubles.engine import Answer, End, EngineDouble, document
from tests.support.door import Door
from tests.support.tls import TLS
from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP, NotReachedError

pytestmark = pytest.mark.anyio


async def test_a_document_is_read_with_its_status(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers["/x"] = [document({"a": [1]}), document({"error": 1}, 503), Answer(document=b"<html>", status=502)]
    assert [await http.get("/x", timeout=20) for _ in range(3)] == [
        (200, {"a": [1]}),
        (503, {"error": 1}),
        (502, None),
    ]


async def test_the_path_of_an_address_is_kept(double: EngineDouble) -> None:
    double.answers["/llm/health"] = [document({"status": "ok"})]
    async with EngineHTTP(f"{double.url}/llm") as http:
        assert await http.get("/health", timeout=20) == (200, {"status": "ok"})


async def test_a_server_of_an_authority_of_ones_own_is_believed_if_that_is_named(
    double: EngineDouble, tmp_path: Path
) -> None:
    double.answers["/x"] = [document({"a": 1})]
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    door = Door(double.serve)
    await door.open(tls=context)
    try:
        async with EngineHTTP(door.url, ca_file=file) as http:
            assert await http.get("/x", timeout=20) == (200, {"a": 1})
        async with EngineHTTP(door.url) as http:
            with pytest.raises(ConnectionLostError):
                await http.get("/x", timeout=20)
    finally:
        await door.close()


async def test_credentials_in_an_address_are_sent(double: EngineDouble) -> None:
    async with EngineHTTP(double.url.replace("://", "://me:hunter%202@")) as http:
        assert (await http.get("/health", timeout=20))[0] == 200
    assert double.requests[0].headers["authorization"] == "Basic " + b64encode(b"me:hunter 2").decode()


@pytest.mark.parametrize(
    "answer",
    [
        Answer([b"{"], End.CUT),
        Answer([b"{"], End.RESET),
        Answer(end=End.SILENT),
        Answer([b"-ERR unknown command 'GET'\r\n"], End.NOISE),
        Answer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"], End.NOISE),
        Answer([b"\x15\x03\x01\x00\x02\x02"], End.NOISE),
        Answer(end=End.NOISE),
    ],
    ids=["cut", "reset", "silent", "redis", "bad-chunk", "tls", "closed"],
)
async def test_no_answer_is_told_as_a_lost_connection(double: EngineDouble, http: EngineHTTP, answer: Answer) -> None:
    double.answers["/x"] = [answer]
    with anyio.fail_after(60), pytest.raises(ConnectionLostError) as caught:
        await http.get("/x", timeout=0.2)
    assert str(caught.value)


async def test_a_request_after_the_end_is_told_as_a_lost_connection(double: EngineDouble) -> None:
    async with EngineHTTP(double.url) as http:
        assert (await http.get("/health", timeout=20))[0] == 200
    with pytest.raises(ConnectionLostError, match="it was stopped"):
        await http.get("/health", timeout=20)
    with pytest.raises(NotReachedError, match="it was stopped"):
        async with http.post("/completion", b"{}"):
            pass
    assert len(double.requests) == 1


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"null", None),
        (b"", None),
        (b"{", None),
        (b'"\xff"', "\ufffd"),
        (b'"\xf0\x9f\x8e"', "\ufffd"),
    ],
)
def test_json_is_decoded_whatever_its_bytes(data: bytes, value: Any) -> None:
    assert decode_json(data) == value


async def test_certificates_are_read_only_for_a_server_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def reading(**settings: object) -> ssl.SSLContext:
        read.append(settings)
        return TLS

    monkeypatch.setattr(ssl, "create_default_context", reading)
    async with EngineHTTP("http://127.0.0.1:1"):
        assert read == []
    async with EngineHTTP("https://127.0.0.1:1"):
        assert len(read) == 1
