"""How connections to an engine are made, on both event loops: to which address, and for how long that is tried."""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import anyio
import pytest
import trustme

from tests.support.loops import LIMIT, anyio_backend, nothing_is_left, until
from tests.support.peer import Guest, peer
from tests.support.ports import free_port
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP, NotReachedError, connecting, transport
from velesio_worker.engines.http.connecting import connect

__all__ = ["anyio_backend", "nothing_is_left"]  # fixtures

pytestmark = pytest.mark.anyio

TWO: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def silent(guest: Guest) -> None:
    await guest.wait_until_closed()


@pytest.mark.parametrize("way", ["cancelled", "too late"])
async def test_a_server_that_hangs_in_the_handshake_of_tls_is_given_up(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with peer(silent) as server, EngineHTTP(server.url.replace("http", "https")) as http:
        if way == "cancelled":
            with anyio.move_on_after(0.2) as scope:
                await http.get("/x", timeout=60)
            assert scope.cancelled_caught
        else:
            monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
            with anyio.fail_after(LIMIT), pytest.raises(ConnectionLostError, match=r"no connection within 0\.2 s"):
                async with http.post("/x", b""):
                    pass
        await until(lambda: len(server.guests) > 0)
        await server.guests[0].is_gone(1)


def fill(listener: socket.socket, stack: ExitStack) -> None:
    """Have as many wait at a door as there is room for."""
    for _ in range(8):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)  # noqa: FBT003 (as sockets have it)
        waiting.connect_ex(listener.getsockname())


def full_port(stack: ExitStack) -> int:
    """A port that takes no connection any more, and does not say so."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    fill(listener, stack)
    return listener.getsockname()[1]


@pytest.mark.parametrize("way", ["cancelled", "too late"])
async def test_a_server_that_takes_no_connection_is_given_up(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        async with EngineHTTP(f"http://127.0.0.1:{full_port(stack)}") as http:
            if way == "cancelled":
                with anyio.move_on_after(0.2) as scope:
                    await http.get("/x", timeout=60)
                assert scope.cancelled_caught
                return
            monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
            with anyio.fail_after(LIMIT), pytest.raises(ConnectionLostError, match=r"no connection within 0\.2 s"):
                async with http.post("/x", b""):
                    pass


@pytest.mark.parametrize("first", ["refuses", "is silent"])
async def test_of_several_addresses_the_one_that_answers_is_used(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_of: list[str] = []

    async def addresses(_host: str, _port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async def serve(guest: Guest) -> None:
        asked_of.append(guest.writer.get_extra_info("sockname")[0])
        await guest.answer(TWO)

    monkeypatch.setattr(connecting, "_addresses", addresses)
    async with peer(serve) as server:
        with ExitStack() as stack:
            if first == "is silent":
                listener = stack.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.2", server.port))
                listener.listen(0)
                fill(listener, stack)
            connection = await connect("several", server.port, None, 0.6)
            connection.close()
    assert asked_of == ["127.0.0.1"]


async def test_an_ipv6_address_and_a_name_are_connected_to() -> None:
    async def serve(guest: Guest) -> None:
        while True:
            await guest.answer(TWO)

    for host, name in (("::1", "[::1]"), ("127.0.0.1", "localhost")):
        async with peer(serve, host=host) as server, EngineHTTP(f"http://{name}:{server.port}") as http:
            assert await http.get("/x", timeout=LIMIT) == (200, {})


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'a' * 70}.example", "127.0.0.1"])
async def test_what_cannot_be_reached_is_told(host: str) -> None:
    async with EngineHTTP(f"http://{host}:{free_port()}") as http:
        with anyio.fail_after(LIMIT), pytest.raises(NotReachedError) as caught:
            async with http.post("/x", b""):
                pass
    assert str(caught.value)


async def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with peer(silent, tls=context) as server, EngineHTTP(server.url, ca_file=tmp_path / "ca.pem") as http:
        with anyio.fail_after(LIMIT), pytest.raises(NotReachedError, match="certificate"):
            async with http.post("/x", b""):
                pass


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")

    async def serve(guest: Guest) -> None:
        await guest.answer(TWO)

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        assert await http.get("/x", timeout=LIMIT) == (200, {})


async def test_a_key_with_a_line_end_is_sent_to_nobody() -> None:
    async with peer(silent) as server, EngineHTTP(server.url, api_key="key\r\nX-More: 1") as http:
        with pytest.raises(ConnectionLostError, match="line end"):
            await http.get("/x", timeout=LIMIT)
        assert server.guests == []
