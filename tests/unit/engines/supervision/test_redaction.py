"""What engines repeat of jobs is taken out of what they write; the lines are those that the real ones wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from velesio_worker.engines.llama.server import LlamaRedaction
from velesio_worker.engines.supervision.redaction import LEFT_OUT, Clean
from velesio_worker.engines.webui.start import clean

QUIET = [
    '0.00.123.456 W srv    operator(): got exception: {"error":{"code":400,"message":"role MARK","type":"x"}}',
    "0.00.123.456 I srv  log_server_r: done request: POST /completion 127.0.0.1 200",
    "parse: error parsing grammar: expecting ::= at MARK",
    "",
    "root ::= MARK",
    " line2 MARK",
    "0.00.643.294 E failed to parse grammar",
    "0.01.668.703 E llg error: at 2(8): failed to compile JSON schema: Invalid type: MARK",
    "",
    "   1 | %llguidance {}",
    '   2 | start: %json {"type":"MARK"}',
    "              ^",
    "0.02.100.000 I slot      release: id  2 | task 12 | stop processing: n_tokens = 9, truncated = 0",
]
VERBOSE = [
    "0.00.643.991 D srv    operator(): JSON schema: {",
    '  "type": "MARK"',
    "}",
    "0.00.643.993 D srv    operator(): Converted grammar: %llguidance {}",
    'start: %json {"type":"MARK"}',
    "0.00.642.852 D srv    operator(): Grammar (): root ::= MARK",
    " line2 MARK",
    '0.00.643.189 D slot launch_slot_: id  2 | task -1 | launching slot : {"id":2,"prompt":"MARK"}',
    "0.00.525.237 D slot process_toke: id  3 | task 0 | n_gen = 1, n_remaining = 0, next token:   198 'MARK",
    "'",
    '0.00.382.508 D srv    operator(): http: streamed chunk: data: {"content":"MARK"}',
    '0.00.351.811 D Parsed message: {"role":"assistant","content":"MARK"}',
    '0.00.525.238 D srv  log_server_r: request:  {"prompt": "MARK"}',
    '0.00.525.239 D srv  log_server_r: response: {"content": "MARK"}',
]
WEBUI = [
    "API error: POST: http://127.0.0.1:7860/sdapi/v1/txt2img {'error': 'ValueError', 'errors': 'MARK'}",
    "*** Error completing request",
    "*** Arguments: ('task(abc)', <gradio.routes.Request object>, 'MARK', '', [], 1, 1) {}",
    "╭───────────────────── Traceback (most recent call last) ─────────────────────╮",
    "│ /app/modules/api/api.py:187 in exception_handling                           │",
    "│ ╭───────────────────────────────── locals ─────────────────────────────────╮ │",
    "│ │ request = StableDiffusionTxt2ImgProcessingAPI(prompt='MARK')             │ │",
    "│ ╰──────────────────────────────────────────────────────────────────────────╯ │",
    "╰──────────────────────────────────────────────────────────────────────────────╯",
    "RuntimeError: CUDA error: out of memory",
    "Error: no file",
]


def cleaned(clean: Clean, lines: Iterable[str]) -> list[str]:
    return [shown for line in lines if (shown := clean(line)) is not None]


@pytest.mark.parametrize(
    ("clean", "lines"),
    [(LlamaRedaction(), QUIET), (LlamaRedaction(), VERBOSE), (clean, WEBUI)],
    ids=["llama-server", "llama-server --verbose", "webui"],
)
def test_nothing_of_a_job_is_left(clean: Clean, lines: list[str]) -> None:
    assert "MARK" in json.dumps(lines)
    assert "MARK" not in json.dumps(cleaned(clean, lines))


def test_what_says_what_went_wrong_stays() -> None:
    assert cleaned(LlamaRedaction(), QUIET) == [
        f"0.00.123.456 W srv    operator(): got exception: {LEFT_OUT}",
        QUIET[1],
        f"parse: error parsing grammar: {LEFT_OUT}",
        f"0.00.643.294 E failed to parse {LEFT_OUT}",
        f"0.01.668.703 E llg error: {LEFT_OUT}",
        QUIET[-1],
    ]
    assert cleaned(clean, WEBUI) == [
        f"API error: POST: http://127.0.0.1:7860/sdapi/v1/txt2img {LEFT_OUT}",
        WEBUI[1],
        f"*** Arguments: {LEFT_OUT}",
        WEBUI[3],
        WEBUI[4],
        *WEBUI[8:],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "/src/ggml/src/ggml-cuda/ggml-cuda.cu:88: CUDA error: out of memory",
        "/src/ggml/src/ggml.c:123: GGML_ASSERT(n > 0) failed",
        "ggml_cuda_init: found 1 CUDA devices:",
        "srv    operator(): operator(): cleaning up before exit...",
        "slot launch_slot_: id  0 | task 1 | processing task",
    ],
)
def test_the_next_line_of_the_servers_own_is_told_from_what_it_repeated(line: str) -> None:
    assert cleaned(LlamaRedaction(), ["0.01.668.703 E llg error: at 2(8)", "MARK", line, "more"])[1:] == [line, "more"]
