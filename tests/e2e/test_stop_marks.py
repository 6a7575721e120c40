"""Stop strings in a real answer that has reasoning: where they stand, and what ends at them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from tests.support.llama_chunks import run
from tests.support.llama_elsewhere import Elsewhere
from tests.support.tiny import model_path
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.engines.llama.server import asked
from velesio_worker.wire.chat_parameters import ChatCompletionParameters

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine

TEMPLATE: Final = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif -%}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"""
GRAMMAR: Final = 'root ::= "<think>abc E</think>ND def ghi"'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("marks")
    (folder / "template.jinja").write_text(TEMPLATE)
    made = Elsewhere(folder, model_path)
    flags = ("--jinja", "--chat-template-file", str(folder / "template.jinja"), "--reasoning-format", "deepseek")
    made.serve("small", *flags, context=512, slots=2)
    yield made
    made.end()


@pytest.mark.parametrize(
    ("stop", "reasoning", "text"),
    [
        ("</think>", "abc E", ""),
        ("E</think>N", "abc ", ""),
        ("END", "abc E", "ND def ghi"),
        ("c E", "ab", ""),
        ("f g", "abc E", "ND de"),
    ],
)
def test_an_answer_ends_where_the_model_wrote_the_stop_string(
    server: Elsewhere, stop: str, reasoning: str, text: str
) -> None:
    parameters = ChatCompletionParameters.model_validate(
        {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "grammar": GRAMMAR, "stop": stop}
    )

    async def answer() -> dict[str, Any]:
        async with EngineHTTP(server.url) as http:
            seen = await asked(http)
            assert isinstance(seen, LlamaProperties)
            _, _, done = await run(LlamaEngine(http, seen).generate(parameters))
            return done.result

    result = anyio.run(answer)
    assert result["message"] == {"role": "assistant", "content": text, "reasoning_content": reasoning}
    assert result["finish_reason"] == "stop"
