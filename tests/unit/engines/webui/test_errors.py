"""What an answer that is an error means for a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.engines.webui.api import refusal
from velesio_worker.wire.errors import EngineRefusedError, OutOfMemoryError

TRANSCRIPTS: Final = Path(__file__).parents[5] / "shared" / "sdapi-transcripts"


def a1111(error: str, detail: str = "", errors: str = "") -> dict[str, Any]:
    return {"error": error, "detail": detail, "body": "", "errors": errors}


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (422, a1111("HTTPException", "Script 'x' not found"), "status 422: HTTPException: Script 'x' not found"),
        (500, a1111("RuntimeError", errors="bad number of images"), "status 500: RuntimeError: bad number of images"),
        (500, {"error": "KeyError", "detail": "", "message": "'x'"}, "status 500: KeyError: 'x'"),
        (404, {"detail": "Not Found"}, "status 404: Not Found"),
        (400, {"error": "prompt required"}, "status 400: prompt required"),
        (
            422,
            {"detail": [{"loc": ["body", "steps"], "msg": "not an integer", "type": "int"}]},
            "status 422: body.steps: not an integer",
        ),
        (
            422,
            {"detail": [{"loc": ["body", "a", 0], "msg": "one"}, {"loc": None, "msg": "two"}, "three"]},
            "status 422: body.a.0: one; : two; three",
        ),
        (500, None, "status 500: nothing more"),
        (502, "<html>", "status 502: nothing more"),
        (500, {}, "status 500: nothing more"),
        (500, [], "status 500: nothing more"),
    ],
)
def test_an_error_is_told_in_the_words_of_whoever_made_it(status: int, answer: Any, said: str) -> None:
    error = refusal(status, answer)
    assert type(error) is EngineRefusedError
    assert str(error) == f"the WebUI answered with {said}"
    assert not error.retryable


@pytest.mark.parametrize(
    "answer",
    [
        a1111("OutOfMemoryError", errors="CUDA out of memory. Tried to allocate 2.00 GiB"),
        a1111("RuntimeError", errors="MPS backend out of memory (MPS allocated: 5 GB)"),
        a1111("RuntimeError", errors="DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        a1111("RuntimeError", errors="DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        {"error": "OutOfMemoryError", "message": ""},
        {"error": "failed to allocate the compute buffer"},
        a1111("RuntimeError", errors="CUDA out of memory. Tried to allocate 2.00 GiB. " + "x" * 1000),
        a1111("RuntimeError", errors="HIP out of memory. Tried to allocate 2.00 GiB"),
        a1111("AcceleratorError", errors="CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        a1111(
            "RuntimeError",
            errors="[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to",
        ),
        a1111("OSError", errors="[Errno 12] Cannot allocate memory"),
        {"error": "torch.OutOfMemoryError", "message": "Allocation on device"},
        {"error": "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB: cudaMalloc failed: out of memory"},
        {"detail": "CUDA out of memory. Tried to allocate 2.00 GiB"},
    ],
)
def test_too_little_memory_is_an_error_of_its_own_and_may_be_tried_again(answer: Any) -> None:
    error = refusal(500, answer)
    assert isinstance(error, OutOfMemoryError)
    assert "out of memory" in str(error)
    assert error.retryable


SAID_IN_A_PROMPT: Final = [
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "OutOfMemoryError",
    "DefaultCPUAllocator: can't allocate memory",
    "failed to allocate",
    "a cat that has not enough memory",
]


@pytest.mark.parametrize("words", SAID_IN_A_PROMPT)
def test_a_prompt_that_speaks_of_memory_is_none_that_needs_too_much(words: str) -> None:
    """Else a job could have the WebUI replaced twice, as often as it is pushed."""
    for answer in (
        a1111("RuntimeError", errors=f"cannot read {words!r}"),
        a1111("ValueError", errors=words),
        a1111("KeyError", errors=repr(words)),
        a1111("HTTPException", f"Script '{words}' not found"),
        a1111("HTTPException", words),
        a1111("RuntimeError", words, "no such thing"),
        {"error": f"cannot read the prompt: {words}"},
        {"detail": f"Sampler '{words}' not found"},
        {"detail": [{"loc": ["body", "prompt"], "msg": words}]},
        {"error": "RuntimeError", "message": f"prompt: {words}"},
    ):
        assert type(refusal(500, answer)) is EngineRefusedError, answer


@pytest.mark.parametrize("status", [401, 403])
def test_a_webui_that_wants_a_password_is_told_with_what_to_change(status: int) -> None:
    said = str(refusal(status, a1111("HTTPException", "Not authenticated")))
    assert "SD_SERVER_URL" in said
    assert "http://user:password@host:port" in said


@pytest.mark.parametrize("field", ["error", "detail", "errors", "message"])
def test_what_a_webui_says_at_length_is_cut(field: str) -> None:
    assert len(str(refusal(500, {field: "x" * 10_000}))) < 400
    assert len(str(refusal(422, {"detail": [{"loc": ["body"], "msg": "x" * 99}] * 99}))) < 400


def test_what_was_sent_is_not_repeated_when_it_was_wrong() -> None:
    """FastAPI gives the wrong value back, which may be a prompt or an image."""
    problem = {"type": "string_type", "loc": ["body", "prompt"], "msg": "should be a string", "input": ["private"]}
    said = str(refusal(422, {"detail": [problem], "body": "private"}))
    assert "body.prompt: should be a string" in said
    assert "private" not in said


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "detail", "errors", "message", "loc", "msg"]), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(st.integers(400, 599), JSON)
def test_whatever_a_server_answers_is_an_error_with_a_text(status: int, answer: Any) -> None:
    error = refusal(status, answer)
    assert str(error)
    assert len(str(error)) < 500
    assert set(error.result()) == {"error", "code"}


@pytest.mark.skipif(not TRANSCRIPTS.is_dir(), reason="the transcripts are not there")
def test_a_real_webuis_errors_are_told() -> None:
    told: dict[str, str] = {}
    for path in TRANSCRIPTS.glob("*.json"):
        whole: Any = json.loads(path.read_text())
        if not isinstance(whole, list) and (whole.get("status") or 0) >= 400:
            told[path.stem] = str(refusal(whole["status"], whole.get("body")))
    assert "Script 'NoSuch' not found" in told["txt2img_badscript"]
    assert "bad number of images passed: 2; expecting 1 or less" in told["img2img_2imgs_batch1"]
    assert "body.steps: value is not a valid integer" in told["txt2img_badtype"]
    assert "model 'nope' not found" in told["options_badmodel"]
    assert "SD_SERVER_URL" in told["auth_none"]
    assert all(len(said) < 500 for said in told.values())
