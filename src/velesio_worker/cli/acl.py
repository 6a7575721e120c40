"""``velesio-worker acl``: print the Redis users of a queue, each with the rights that it needs and no others."""

from __future__ import annotations

import argparse
import secrets
from typing import Final

from velesio_worker.cli.base import Commands
from velesio_worker.core.redis_url import Topology, parse_redis_url
from velesio_worker.core.settings import load_settings
from velesio_worker.queue.rights import SENTINEL, Party, rights_of

_LINE: Final = {"setuser": "ACL SETUSER {} {}", "aclfile": "user {} {}"}
_PASSWORD_BYTES: Final = 32


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    acl = commands.add_parser("acl", help="print Redis users with the rights that each needs, ready to paste")
    acl.add_argument("party", nargs="*", type=_party, help=f"which: {', '.join(Party)}; all of them if left out")
    acl.add_argument(
        "--format",
        default="setuser",
        choices=tuple(_LINE),
        help="setuser: lines for redis-cli (default); aclfile: lines for the file that aclfile in redis.conf names",
    )
    acl.add_argument(
        "--rights-only", action="store_true", help="leave passwords as they are, to bring users up to date (setuser)"
    )


def _party(text: str) -> Party:
    try:
        return Party(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(Party)}") from None


def run(arguments: argparse.Namespace) -> int:
    """Run ``velesio-worker acl``; returns the exit code. Raises SettingsError."""
    settings = load_settings()
    topology = parse_redis_url(settings.redis_url).topology
    rights_only: bool = arguments.rights_only and arguments.format == "setuser"
    parties: list[Party] = arguments.party or list(Party)
    for party in dict.fromkeys(parties):
        _show(arguments.format, party, rights_of(party, settings.queue_name, topology).rules(), rights_only=rights_only)
    if topology is Topology.SENTINEL:
        print("# On each Sentinel, whose users are its own:")
        _show(arguments.format, "velesio", ["resetkeys", "-@all", *SENTINEL], rights_only=rights_only)
    return 0


def _show(form: str, user: str, rules: list[str], *, rights_only: bool) -> None:
    password = [] if rights_only else ["on", f">{secrets.token_hex(_PASSWORD_BYTES)}"]
    print(_LINE[form].format(user, " ".join([*password, *rules])))
