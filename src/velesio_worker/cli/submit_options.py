"""The options of ``velesio-worker submit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import orjson
import typer

TEXT: Final = "Text"
IMAGES: Final = "Images"
_TURN: Final = "Whose turn it is"

TAKEN_BY: Final = {TEXT: ("chat_completion", "completion"), IMAGES: ("txt2img", "img2img")}
"""Which types take the options of a panel of the help; those of the others all do."""

_N: Final = "N"


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("not a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


def _turn(meaning: str, metavar: str | None = None) -> Any:  # noqa: ANN401 (as typer has it)
    return typer.Option(help=meaning, metavar=metavar, rich_help_panel=_TURN)


def _text(meaning: str, *names: str, metavar: str | None = None) -> Any:  # noqa: ANN401 (as typer has it)
    return typer.Option(*names, help=meaning, metavar=metavar, rich_help_panel=TEXT)


def _image(meaning: str, *names: str, metavar: str | None = None) -> Any:  # noqa: ANN401 (as typer has it)
    return typer.Option(*names, help=meaning, metavar=metavar, rich_help_panel=IMAGES)


Type = Literal["chat_completion", "completion", "embedding", "txt2img", "img2img"]

Prompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="The prompt; standard input if it is - or left out.")
]
JobType = Annotated[Type, typer.Option("--type", help="Its type.")]
Data = Annotated[
    dict[str, Any] | None,
    typer.Option(parser=_json_object, metavar="JSON", help="More parameters: '{\"temperature\": 0}'."),
]
JobId = Annotated[str | None, typer.Option("--id", metavar="ID", help="The job's id; drawn at random if left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; of images, where they are.")]

Priority = Annotated[
    Literal["high", "normal", "low"] | None, _turn("While all wait, 16 of high are begun for 4 of normal and 1 of low.")
]
Tenant = Annotated[str | None, _turn("Whose it is: tenants get equal shares.", "TENANT")]
Session = Annotated[
    str | None,
    _text("The conversation that it belongs to: the worker that has read that takes it, if it has to wait."),
]

Stream = Annotated[bool, _text("Print tokens as they come.", "--stream")]
System = Annotated[str | None, _text("A system message in front of the prompt (chat_completion).")]
MaxTokens = Annotated[int | None, _text("The most tokens of the answer.", metavar=_N)]

OutputPath = Annotated[
    Path | None, _image("Where the PNG goes, a file or a folder; ID.png if left out.", "--output", metavar="FILE")
]
Force = Annotated[bool, _image("Write over files that are there.", "--force")]
Show = Annotated[
    bool | None,
    _image("Show the image in the terminal; if left out, where that is known to show images.", "--show/--no-show"),
]
Steps = Annotated[int | None, _image("How many steps.", metavar=_N)]
Pixels = Annotated[int | None, _image("In pixels.", metavar=_N)]
Seed = Annotated[int | None, _image("The seed; drawn at random if left out.", metavar=_N)]
Count = Annotated[int | None, _image("How many images; their files are numbered.", metavar=_N)]
Negative = Annotated[str | None, _image("What the image is not to show.", metavar="TEXT")]
InitImage = Annotated[Path | None, _image("What img2img begins with.", "--init-image", metavar="FILE")]
