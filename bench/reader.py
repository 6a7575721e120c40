"""A reader of streams: prints how long each token was on its way, in milliseconds, one per line."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import redis


def main() -> None:
    url, *ids = sys.argv[1:]
    client: Any = redis.Redis.from_url(url, decode_responses=True)  # pyright: ignore[reportUnknownMemberType]
    client.ping()
    print("ready", flush=True)
    after = {f"stream:{job_id}": "0-0" for job_id in ids}
    while after:
        for key, entries in client.xread(dict(after), block=5000) or ():
            now = time.monotonic_ns()
            for entry_id, fields in entries:
                after[key] = entry_id
                if fields["event"] == "token":
                    made = int(json.loads(fields["data"])["choices"][0]["text"])
                    print((now - made) / 1e6)
                elif fields["event"] == "done":
                    del after[key]


if __name__ == "__main__":
    main()
