"""The port that an engine is to listen on."""

from __future__ import annotations

import errno
import socket
from typing import Final

from velesio_worker.wire.errors import EngineStartError

HOST: Final = "127.0.0.1"


def check_port(port: int, *, setting: str = "LLAMA_PORT", url: str = "LLAMA_SERVER_URL") -> None:
    """Check that nothing listens on the port, so that the server that answers there is the one that was started.

    Args:
        port: on 127.0.0.1.
        setting: names it.
        url: the setting that names a server that runs already.

    Raises:
        EngineStartError: something does.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and not _listens(port):  # the end of a connection lingers there
                return
            raise EngineStartError(
                f"Port {port} on {HOST} is taken ({error.strerror}): stop what listens there, set {setting} to a free "
                f"port, or set {url}=http://{HOST}:{port} to use that server"
            ) from None


def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) != errno.ECONNREFUSED
