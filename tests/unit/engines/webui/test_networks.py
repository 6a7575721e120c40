"""The tags in prompts that have no effect, and how that is told."""

from __future__ import annotations

import pytest

from tests.unit.engines.webui.test_request import ABLE, DECODE, SECRET, SILENT, Shelf, limits, prepared, txt
from velesio_worker.engines.webui.networks import kinds_in
from velesio_worker.engines.webui.request import prepare

pytestmark = pytest.mark.anyio


async def told(prompt: str, **more: object) -> tuple[str, ...]:
    return (await prepared(txt(prompt=f"{SECRET} {prompt}", **more), ABLE)).warnings


@pytest.mark.parametrize("kind", ["lora", "lyco"])
@pytest.mark.parametrize("rest", ["", ":1", ":0.5:0.7", ":te=1:unet=0.5", ":1:1:4", ":-1", ": 1 ", ":1:lbw=ALL"])
async def test_a_lora_that_is_there_has_no_warning(kind: str, rest: str) -> None:
    assert await told(f"<{kind}:details{rest}> <hypernet:ink:0.4>") == ()


@pytest.mark.parametrize("kind", ["lora", "lyco"])
async def test_a_lora_that_is_not_there_is_told(kind: str) -> None:
    assert await told(f"<{kind}:gone:1>") == ("The LoRA 'gone' is not known to the WebUI and has no effect.",)


async def test_a_hypernetwork_that_is_not_there_is_told() -> None:
    said = ("The hypernetwork 'gone' is not known to the WebUI and has no effect.",)
    assert await told("<hypernet:gone:1> <hypernet:gone>") == said
    shelf = Shelf(ABLE)
    assert (
        await prepare(txt(prompt="<hypernet:gone>"), ABLE, limits(), shelf.refresh, DECODE, settable=True)
    ).warnings == said
    assert shelf.asked == 1, "somebody may have added it"


@pytest.mark.parametrize("weight", ["strong", "", "1,5", "0.5.5", "nan", "inf", "unet=high", "1:x", "te=", "dyn=x"])
async def test_a_weight_that_is_no_number_is_told(weight: str) -> None:
    (said,) = await told(f"<lora:details:{weight}>")
    assert said.startswith("The weight ")
    assert said.endswith(" of the LoRA 'details' is no number: no LoRA of the prompt has any effect.")


async def test_a_weight_of_a_hypernetwork_that_is_no_number_is_told() -> None:
    (said,) = await told("<hypernet:ink:strong>")
    assert said == (
        "The weight 'strong' of the hypernetwork 'ink' is no number: no hypernetwork of the prompt has any effect."
    )


async def test_a_kind_of_network_that_nobody_knows_is_told() -> None:
    (said,) = await told("<loar:details:1>")
    assert "<loar:…>" in said


async def test_the_second_prompt_of_a_hires_fix_is_looked_at_too() -> None:
    (said,) = await told("", enable_hr=True, hr_prompt="<lora:gone:1>")
    assert "'gone'" in said
    assert await told("", enable_hr=False, hr_prompt="<lora:gone:1>") == ()


async def test_a_negative_prompt_calls_for_nothing() -> None:
    (said,) = await told("", negative_prompt="<lora:details:1>")
    assert said == "<lora:…> in the negative prompt has no effect: write it in the prompt."


async def test_a_long_name_in_a_tag_is_told_in_a_short_sentence() -> None:
    (long,) = await told(f"<lora:{'x' * 9999}>")
    assert len(long) < 200


async def test_what_is_no_tag_is_text() -> None:
    assert await told("a < b: c > d, <3, <a b:c>, <:x>, <lora:>") == ()


async def test_a_webui_that_does_not_tell_what_it_has_has_no_warnings() -> None:
    assert (await prepared(txt(prompt="<lora:a:1> <hypernet:b:1>"), SILENT)).warnings == ()


async def test_a_server_without_networks_names_the_kinds() -> None:
    asked = txt(prompt="<lora:details:1> <lyco:x> <hypernet:ink>")
    (said,) = (await prepared(asked, ABLE, settable=False)).warnings
    names = "<hypernet:…> in the prompt, <lora:…> in the prompt, <lyco:…> in the prompt"
    assert said == f"This image engine does not know {names}: of no effect."


def test_a_megabyte_of_begun_tags_is_looked_through_once() -> None:
    assert kinds_in("<lora:" * 200_000) == []
    assert kinds_in("<" * 1_000_000 + ">" * 1000) == []
