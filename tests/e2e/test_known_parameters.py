"""Our list of text parameters and the bundled server's: neither has a name that the other does not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from pydantic import AliasChoices, AliasPath

from tests.support.llama_elsewhere import Elsewhere
from tests.support.model_files import TINY_WORDS
from tests.support.tiny import model_path
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.embedded.params import extension
from velesio_worker.engines.llama.engine import LlamaProperties
from velesio_worker.engines.llama.limits import LlamaLimits
from velesio_worker.engines.llama.server import asked
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.parameters import REFUSED
from velesio_worker.wire.template_parameters import ApplyTemplateParameters
from velesio_worker.wire.text_parameters import CompletionParameters, InfillParameters, TextParameters

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.engine

TEMPLATE: Final = (
    "{% for message in messages %}[{{ message.role }}:{{ message.content }}]{% endfor %}"
    "{% if reasoning_effort is defined %}effort={{ reasoning_effort }}{% endif %}"
    "{% if colour is defined %}colour={{ colour }}{% endif %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}[assistant:{% endif %}"
)
USER: Final = {"role": "user", "content": "a"}
TOOL: Final[dict[str, Any]] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
WRONG: Final[list[Any]] = [[[]], {"a": []}]
"""What no parameter is, one of the two at least."""

OURS: Final = {"model", "defaults", "stream", "messages", "prompt", "max_tokens"}
"""What the worker takes itself, and what each request has."""

SHOWN: Final[dict[str, tuple[Any, str, Any]]] = {
    "json_schema": ({"type": "boolean"}, "grammar", '%llguidance {}\nstart: %json {"type":"boolean"}'),
    "logit_bias": ([[5, 1.0]], "logit_bias", [{"bias": 1.0, "token": 5}]),
    "stop": (["zz"], "stop", ["zz"]),
    "max_tokens": (3, "max_tokens", 3),
}
"""What the server takes in silence, whatever it is: a value, where its answer shows what became of it, and what."""

PROMPTED: Final[dict[str, tuple[Any, str]]] = {
    "add_generation_prompt": (False, "[user:a]"),
    "chat_template_kwargs": ({"colour": "red"}, "[user:a]colour=red[assistant:"),
    "reasoning_effort": ("low", "[user:a]effort=low[assistant:"),
}
"""The same of what changes the prompt."""

TOLD: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "grammar": ({"grammar": "x"}, "failed to parse grammar"),
    "continue_final_message": ({"continue_final_message": [[]]}, "Invalid continue_final_message"),
    "reasoning_format": ({"reasoning_format": "x"}, "Unknown reasoning format: x"),
    "response_format": ({"response_format": {"type": "x"}}, "response_format type must be"),
    "tool_choice": ({"tool_choice": "x"}, "Invalid tool_choice"),
    "tools": ({"tools": "x"}, "tools"),
    "top_logprobs": ({"top_logprobs": 1}, "top_logprobs requires logprobs"),
}
"""What is complained of in other words than those of the rest."""

SILENT: Final = {"parallel_tool_calls", "reasoning_budget_message", "thinking_budget_tokens"}
"""What the small model shows no effect of, whatever it is; the program knows the name."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("parameters")
    (folder / "template.jinja").write_text(TEMPLATE)
    made = Elsewhere(folder, model_path)
    made.serve("small", "--chat-template-file", str(folder / "template.jinja"), context=512, slots=2)
    yield made
    made.end()


def names_of(kind: type[TextParameters], *, sent: bool) -> set[str]:
    """The names that a type knows; or those that go to the server."""
    names: set[str] = set()
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        assert not isinstance(alias, AliasPath | AliasChoices)
        if not sent or not (field.exclude or REFUSED in field.metadata or name in OURS):
            names.add(alias or name)
    return names


@pytest.mark.parametrize("kind", [CompletionParameters, ChatCompletionParameters, InfillParameters])
def test_each_parameter_that_the_server_has_a_default_of_is_taken_or_refused_with_a_reason(
    server: Elsewhere, kind: type[TextParameters]
) -> None:
    _, props = server.ask("/props")
    theirs = props["default_generation_settings"]["params"]
    assert len(theirs) > 30
    own_to_chats = {"reasoning_format"} if kind is not ChatCompletionParameters else set[str]()
    assert theirs.keys() - names_of(kind, sent=False) - own_to_chats == set()


@pytest.mark.parametrize("kind", [CompletionParameters, ChatCompletionParameters, InfillParameters])
def test_each_parameter_that_an_answer_of_the_server_shows_is_taken_or_refused_with_a_reason(
    server: Elsewhere, kind: type[TextParameters]
) -> None:
    _, answer = server.ask("/completion", {"prompt": "a", "n_predict": 1})
    own_to_chats = {"reasoning_format"} if kind is not ChatCompletionParameters else set[str]()
    assert answer["generation_settings"].keys() - names_of(kind, sent=False) - own_to_chats == set()


def complaint(server: Elsewhere, chat: bool, more: dict[str, Any]) -> str:  # noqa: FBT001 (one of two forms)
    """What the server says of a request; empty if it answers it."""
    fields = {"messages": [USER], "max_tokens": 1} if chat else {"prompt": "a", "n_predict": 1}
    status, answer = server.ask("/v1/chat/completions" if chat else "/completion", fields | more)
    return "" if status == 200 else answer["error"]["message"]


COMPLETION: Final = [(False, name) for name in sorted(names_of(CompletionParameters, sent=True))]
CHAT: Final = [(True, name) for name in sorted(names_of(ChatCompletionParameters, sent=True))]


@pytest.mark.parametrize(("chat", "name"), [*COMPLETION, *CHAT])
def test_each_name_that_is_sent_is_known_to_the_server(server: Elsewhere, chat: bool, name: str) -> None:  # noqa: FBT001
    if name in SHOWN:
        value, where, shown = SHOWN[name]
        _, answer = server.ask("/completion", {"prompt": "a", "n_predict": 1, name: value})
        assert answer["generation_settings"][where] == shown
    elif name == "id_slot":
        taken = [server.ask("/completion", {"prompt": "a", "n_predict": 1, name: slot})[1][name] for slot in (1, 0, 1)]
        assert taken == [1, 0, 1]
    elif name in PROMPTED:
        value, prompt = PROMPTED[name]
        assert server.ask("/apply-template", {"messages": [USER], name: value})[1] == {"prompt": prompt}
    elif name in TOLD:
        more, words = TOLD[name]
        assert words in complaint(server, chat, more)
    elif name in SILENT:
        program = extension().__file__
        assert any(name.encode() in path.read_bytes() for path in Path(program).parent.rglob("*.so*"))
    else:
        told = [complaint(server, chat, {name: wrong}) for wrong in WRONG]
        assert any(text.startswith(f"Field '{name}': ") for text in told), told


def test_a_name_that_the_server_does_not_know_would_be_found_out(server: Elsewhere) -> None:
    assert [complaint(server, chat, {"banana": wrong}) for chat in (False, True) for wrong in WRONG] == [""] * 4


def test_each_name_that_goes_with_a_template_changes_its_prompt(server: Elsewhere) -> None:
    _, plain = server.ask("/apply-template", {"messages": [USER]})
    assert plain == {"prompt": "[user:a][assistant:"}
    begun = {"messages": [USER, {"role": "assistant", "content": "b"}]}
    more: dict[str, dict[str, Any]] = {
        "messages": begun,
        "tools": {"tools": [TOOL]},
        "tool_choice": {"tools": [TOOL], "tool_choice": "none"},
        "continue_final_message": begun | {"continue_final_message": True, "add_generation_prompt": False},
        **{name: {name: value} for name, (value, _) in PROMPTED.items()},
    }
    sent = {name for name, field in ApplyTemplateParameters.model_fields.items() if not field.exclude}
    assert sent - {"model", "defaults"} == more.keys()
    prompts = {name: server.ask("/apply-template", {"messages": [USER]} | fields)[1] for name, fields in more.items()}
    assert [name for name, prompt in prompts.items() if prompt == plain] == []


def test_what_the_server_takes_in_silence_is_refused_with_what_it_says_it_has(server: Elsewhere) -> None:
    async def properties() -> LlamaProperties | str:
        async with EngineHTTP(server.url) as http:
            return await asked(http)

    seen = anyio.run(properties)
    assert isinstance(seen, LlamaProperties)
    assert (seen.slots, seen.limits) == (2, LlamaLimits(TINY_WORDS, frozenset()))
    silent: list[dict[str, Any]] = [
        {"id_slot": 2},
        {"lora": [{"id": 0, "scale": 1.0}]},
        {"logit_bias": [[TINY_WORDS, 1.0]]},
        {"logit_bias": {str(TINY_WORDS): 1}},
    ]
    for more in silent:
        assert complaint(server, chat=False, more=more) == ""
        with pytest.raises(BadJobError):
            seen.limits.check(CompletionParameters.model_validate({"prompt": "a"} | more), seen.slots)
    for whole in ({"id_slot": 1}, {"logit_bias": [[TINY_WORDS - 1, 1.0]]}):
        seen.limits.check(CompletionParameters.model_validate({"prompt": "a"} | whole), seen.slots)
