"""A gateway's stand-in behind a real proxy: it says what it is asked, piece by piece, and notices who leaves."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from tests.docker.dockerfiles import FOLDER, ROOT
from tests.support.servers import free_port

NGINX_OF_COMPOSE: Final = FOLDER / "nginx.conf"
NGINX_OF_HOSTS: Final = ROOT / "deploy" / "nginx" / "velesio-gateway.conf"
CADDY_OF_HOSTS: Final = ROOT / "deploy" / "caddy" / "Caddyfile"


@dataclass
class Upstream:
    """What the stand-in was asked, and when it may go on.

    Attributes:
        heads: the head of each request, as it came.
        bodies: how many bytes of body each request had.
        goes_on: set by the test: the second piece of a live answer may be sent.
        left: set when a reader of a live answer has left before its end.
    """

    heads: list[str] = field(default_factory=list[str])
    bodies: list[int] = field(default_factory=list[int])
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if not head.startswith("GET /livez"):
            self.heads.append(head)
        length = re.search(r"(?i)^content-length: (\d+)", head, re.MULTILINE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        self.bodies.append(len(body))
        if not head.startswith("GET /live "):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"d\r\ndata: first\n\n\r\n")
        await writer.drain()
        return await self._rest(reader, writer)

    async def _rest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Say the rest when the test wants it, unless the reader leaves before."""
        goes_on = False

        async def until_it_goes_on(scope: anyio.CancelScope) -> None:
            nonlocal goes_on
            await self.goes_on.wait()
            goes_on = True
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(until_it_goes_on, group.cancel_scope)
            with suppress(ConnectionError):
                await reader.read(1)
            group.cancel_scope.cancel()
        if not goes_on:
            self.left.set()
            return False
        writer.write(b"e\r\ndata: second\n\n\r\n0\r\n\r\n")
        await writer.drain()
        return False


@asynccontextmanager
async def upstream() -> AsyncGenerator[tuple[Upstream, int], None]:
    """Run the stand-in; yields it and its port."""
    it = Upstream()
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    async with server:
        yield it, server.sockets[0].getsockname()[1]
        server.close()


def has(program: str) -> bool:
    """Whether this host has the proxy."""
    return shutil.which(program) is not None


@asynccontextmanager
async def running(command: Sequence[str | Path], folder: Path, port: int) -> AsyncGenerator[None, None]:
    """Run a proxy while the block runs; it begins when the proxy listens."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    log = await anyio.open_file(folder / "log", "wb")
    async with (
        log,
        await anyio.open_process(command, stdout=log.wrapped, stderr=log.wrapped, env=environment) as process,
    ):
        try:
            with anyio.fail_after(20):
                while not await _listens(port):
                    assert process.returncode is None, (folder / "log").read_text()
                    await anyio.sleep(0.02)
            yield
        finally:
            process.terminate()
            with anyio.fail_after(20, shield=True):
                await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


def nginx_of_compose(folder: Path, gateway: int) -> tuple[list[str | Path], int]:
    """Return the command of Compose's nginx and its port: what is changed are ports, paths and the gateway's name."""
    port = free_port()
    text = NGINX_OF_COMPOSE.read_text().replace("listen 8080", f"listen 127.0.0.1:{port}")
    text = re.sub(r"(pid|_path) /tmp/", rf"\1 {folder}/", text)
    return _nginx(folder, text.replace("gateway:8080", f"127.0.0.1:{gateway}")), port


def nginx_of_hosts(folder: Path, *gateways: int) -> tuple[list[str | Path], int]:
    """Return the command of an nginx with the example for hosts, and its port."""
    port = free_port()
    servers = "\n".join(f"server 127.0.0.1:{gateway};" for gateway in gateways)
    site = NGINX_OF_HOSTS.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};")
    (folder / "site.conf").write_text(site.replace("server 127.0.0.1:8080;", servers))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    web = f"access_log off;\n{paths}\ninclude {folder}/site.conf;"
    return _nginx(folder, f"pid {folder}/pid;\nevents {{}}\nhttp {{\n{web}\n}}\n"), port


def _nginx(folder: Path, text: str) -> list[str | Path]:
    """Return the command of an nginx; one that root runs would lay that off, and could not enter ``folder``."""
    (folder / "nginx.conf").write_text(("user root;\n" if os.getuid() == 0 else "") + text)
    return ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf", "-g", "daemon off;"]


def caddy_of_hosts(folder: Path, *gateways: int) -> tuple[list[str | Path], int]:
    """Return the command of a Caddy with the example for hosts, and its port; without a certificate."""
    port = free_port()
    addresses = " ".join(f"127.0.0.1:{gateway}" for gateway in gateways)
    text = CADDY_OF_HOSTS.read_text().replace("velesio.example", f"http://:{port}")
    text = "{\n\tadmin off\n\tauto_https off\n}\n" + text.replace("127.0.0.1:8080", addresses)
    (folder / "Caddyfile").write_text(text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"], port
