"""As much of redis-cli as the manual's blocks need: one command for the Redis at REDIS_URL, its reply printed."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

import hiredis


def main(words: list[str]) -> int:
    url = urlsplit(os.environ["REDIS_URL"])
    reader: Any = hiredis.Reader(encoding="utf-8")
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(_packed([word.encode() for word in words]))
        while (reply := reader.gets()) is False:  # not all of it is there yet
            received = connection.recv(65536)
            if not received:
                sys.exit("Redis has gone")
            reader.feed(received)
    sys.stdout.write(f"{reply}\n")
    return int(isinstance(reply, hiredis.ReplyError))


def _packed(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
