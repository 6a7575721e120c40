"""JOB_TYPES: what it may name."""

from __future__ import annotations

import pytest

from velesio_worker.core.job_types import types_named
from velesio_worker.core.settings import load_settings
from velesio_worker.wire.errors import SettingsError
from velesio_worker.wire.jobs import ALL_TYPES, JobType


def test_all_types_are_taken_unless_some_are_named() -> None:
    assert types_named(load_settings().job_types) == ALL_TYPES
    assert types_named(" completion,txt2img ,") == {JobType.COMPLETION, JobType.TXT2IMG}
    assert types_named("completion,all") == ALL_TYPES


@pytest.mark.parametrize("wrong", [",", "banana", "completion,Txt2img"])
def test_what_is_no_type_is_said_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("JOB_TYPES", wrong)
    with pytest.raises(SettingsError, match=r"JOB_TYPES.*all, or some of completion, chat_completion"):
        load_settings()
