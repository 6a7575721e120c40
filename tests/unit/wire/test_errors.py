from __future__ import annotations

import inspect
from collections import Counter

import pytest

from velesio_worker.wire.errors import BadJobError, EngineStartError, JobError, SettingsError, VelesioError, job_error
from velesio_worker.wire.limits import LONGEST_ERROR

CODES = {
    "bad_job",
    "unknown_type",
    "too_large",
    "expired",
    "timeout",
    "no_worker",
    "worker_lost",
    "engine_unavailable",
    "engine_crashed",
    "engine_stalled",
    "engine_error",
    "context_exceeded",
    "out_of_memory",
    "no_capacity",
    "internal",
}
"""Wire protocol, section 5, and one of our own: ``engine_stalled``."""

KINDS = JobError.__subclasses__()


def test_the_codes_are_those_of_the_wire_protocol() -> None:
    assert {kind.code for kind in KINDS} == CODES


def test_each_error_has_a_code_of_its_own() -> None:
    assert [code for code, times in Counter(kind.code for kind in KINDS).items() if times > 1] == []


@pytest.mark.parametrize("kind", [*KINDS, SettingsError, EngineStartError, JobError])
def test_the_docstring_is_the_default_message(kind: type[VelesioError]) -> None:
    message = str(kind())
    assert message == (inspect.getdoc(kind) or "").splitlines()[0]
    assert message.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_the_wire(kind: type[JobError]) -> None:
    read = job_error(kind.code, "what happened")
    assert type(read) is kind
    assert (str(read), read.code, read.retryable) == ("what happened", kind.code, kind.retryable)


def test_a_code_from_a_later_release_is_still_an_error() -> None:
    read = job_error("quantum_flux", "what happened")
    assert type(read) is JobError
    assert str(read) == "what happened"


def test_a_long_error_is_cut_and_its_quotes_stay_out_of_the_log_all_the_same() -> None:
    quoted = "secret" * 1000
    error = BadJobError(f"It says {quoted}, and that is wrong.", said=quoted)
    assert len(str(error)) == len(error.result()["error"]) == LONGEST_ERROR
    assert str(error).endswith("…")
    assert error.public == "It says … (the words stand in the result), and that is wrong."
    assert len(BadJobError("x" * 10_000).public) == LONGEST_ERROR


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_no_control_characters_wherever_it_is_told(kind: type[JobError]) -> None:
    error = kind("Unknown job type: x\n2026 FORGED\x1b[2J\x9b\u2028\u202e")
    told = r"Unknown job type: x\n2026 FORGED\u001b[2J\u009b\u2028\u202e"
    assert (str(error), error.result()["error"], error.entry(partial=False)["error"]) == (told, told, told)
    assert error.public == "Unknown job type: x"


def test_what_is_left_out_of_the_log_may_have_control_characters() -> None:
    error = JobError("It said: a\x1bb, and ended.", said="a\x1bb")
    assert str(error) == r"It said: a\u001bb, and ended."
    assert error.public == "It said: … (the words stand in the result), and ended."


def test_a_number_without_end_is_cut() -> None:
    assert str(JobError(f"It passed {'9' * 400}.0 s ago.")) == f"It passed {'9' * 20}….0 s ago."
