"""``velesio-worker acl``: print the Redis users of a queue, each with the rights that it needs and no others."""

from __future__ import annotations

import secrets
from typing import Annotated, Final, Literal

import typer

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
) -> None:
    """Print Redis users with the rights that each needs. Raises SettingsError."""
    settings = load_settings()
    topology = parse_redis_url(settings.redis_url).topology
    rights_only = rights_only and form == "setuser"
    for party in dict.fromkeys(parties or Party):
        _show(form, party, rights_of(party, settings.queue_name, topology).rules(), rights_only=rights_only)
    if topology is Topology.SENTINEL:
        print("# On each Sentinel, whose users are its own:")
        _show(form, "velesio", ["resetkeys", "-@all", *SENTINEL], rights_only=rights_only)


def _show(form: Form, user: str, rules: list[str], *, rights_only: bool) -> None:
    password = [] if rights_only else ["on", f">{secrets.token_hex(_PASSWORD_BYTES)}"]
    print(_LINE[form].format(user, " ".join([*password, *rules])))
