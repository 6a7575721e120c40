"""``velesio-worker acl``: print the Redis users of a queue, each with the rights that it needs and no others."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Final, Literal

import typer

from velesio_worker.cli.base import print_json
from velesio_worker.core.redis_url import Topology, parse_redis_url
from velesio_worker.core.settings import load_settings
from velesio_worker.queue.rights import SENTINEL, Party, rights_of

Form = Literal["setuser", "aclfile"]
_LINE: Final[dict[Form, str]] = {"setuser": "ACL SETUSER {} {}", "aclfile": "user {} {}"}
_PASSWORD_BYTES: Final = 32


def command(
    parties: Annotated[
        list[Party] | None, typer.Argument(metavar="PARTY", help="Which; all of them if left out.")
    ] = None,
    *,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="setuser: lines for redis-cli; aclfile: lines for the file that aclfile in redis.conf names.",
        ),
    ] = "setuser",
    rights_only: Annotated[
        bool,
        typer.Option("--rights-only", help="Leave passwords as they are, to bring users up to date (setuser)."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="As JSON: user, password, rules, and whether of Sentinels.")
    ] = False,
) -> None:
    """Print Redis users with the rights that each needs. Raises SettingsError."""
    settings = load_settings()
    topology = parse_redis_url(settings.redis_url).topology
    keep = rights_only and (json or form == "setuser")
    users = [
        (party, rights_of(party, settings.queue_name, topology).rules()) for party in dict.fromkeys(parties or Party)
    ]
    rows = [_row(user, rules, keep=keep) for user, rules in users]
    others = [_row("velesio", ["resetkeys", "-@all", *SENTINEL], keep=keep)] if topology is Topology.SENTINEL else []
    if json:
        print_json([row | {"sentinel": False} for row in rows] + [row | {"sentinel": True} for row in others])
        return
    print(*(_line(form, row) for row in rows), sep="\n")
    if others:
        print("# On each Sentinel, whose users are its own:", _line(form, others[0]), sep="\n")


def _row(user: str, rules: list[str], *, keep: bool) -> dict[str, Any]:
    return {"user": user, "password": None if keep else secrets.token_hex(_PASSWORD_BYTES), "rules": rules}


def _line(form: Form, row: dict[str, Any]) -> str:
    password = [] if row["password"] is None else ["on", f">{row['password']}"]
    return _LINE[form].format(row["user"], " ".join([*password, *row["rules"]]))
