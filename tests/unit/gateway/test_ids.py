"""Ids of jobs: unguessable, bound to a token, and ids of the protocol."""

from __future__ import annotations

import base64
import hmac
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.ids import is_own, made_at, new_job_id
from velesio_worker.wire.payload import JOB_ID, is_job_id

CALLER = Caller(None, b"key")
callers = st.builds(Caller, st.none() | st.text(max_size=140), st.binary(min_size=1, max_size=64))


@given(callers)
def test_an_id_is_one_of_the_protocol_and_its_callers_own(caller: Caller) -> None:
    job_id = new_job_id(caller)
    assert is_job_id(job_id)
    assert is_own(job_id, caller)
    assert abs(made_at(job_id) - time.time()) < 60


@given(callers, callers)
def test_an_id_is_nobody_elses(caller: Caller, other: Caller) -> None:
    assert is_own(new_job_id(caller), other) is (caller.key == other.key)


@given(callers, st.integers(min_value=0), st.characters(codec="ascii"))
def test_an_id_in_which_anything_is_changed_is_none(caller: Caller, at: int, character: str) -> None:
    job_id = new_job_id(caller)
    at %= len(job_id)
    changed = job_id[:at] + character + job_id[at + 1 :]
    assert is_own(changed, caller) is (changed == job_id)
    assert not is_own(job_id[:at], caller)
    assert not is_own(job_id + character, caller)


@given(callers, st.text() | st.from_regex(JOB_ID, fullmatch=True))
def test_a_text_that_was_not_made_for_the_caller_is_none(caller: Caller, text: str) -> None:
    assert not is_own(text, caller)


@pytest.mark.parametrize("head", ["", "x", "a.b", "job.*", "job.\n", "a" * 65 + "." + "A" * 28, "job." + "A" * 29])
def test_what_the_gateway_would_never_make_is_nobodys_though_its_mac_is_right(head: str) -> None:
    mac = hmac.digest(CALLER.key, head.encode(), "sha256")[:16]
    assert not is_own(f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}", CALLER)


def test_two_ids_are_never_the_same() -> None:
    caller = Caller("alice", b"key")
    assert len({new_job_id(caller) for _ in range(1000)}) == 1000


def test_a_name_is_shown_if_an_id_may_have_it() -> None:
    assert new_job_id(Caller("team-a.eu", b"key")).startswith("team-a.eu.")
    for name in (None, "", "two words", "ü", "x" * 65):
        assert new_job_id(Caller(name, b"key")).startswith("job.")
