"""Pictures that cost nothing: their content is a hash of what they were made from."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import Any, Final

from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from tests.doubles.webui.setup import crash, http_error

CELL: Final = 8
"""Pixels per latent pixel: sizes are cut to multiples of it."""


def draw(width: int, height: int, *made_from: object) -> Image.Image:
    """A picture of exactly this size; the same for the same ``made_from``, and only for them."""
    columns, rows = width // CELL, height // CELL
    noise = hashlib.shake_128(repr(made_from).encode()).digest(columns * rows * 3)
    return ImageOps.scale(Image.frombytes("RGB", (columns, rows), noise), CELL, Image.Resampling.NEAREST)


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures side by side, in about as many rows as columns."""
    rows = round(len(pictures) ** 0.5)
    columns = -(-len(pictures) // rows)
    width, height = pictures[0].size
    whole = Image.new("RGB", (columns * width, rows * height))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * width, number // columns * height))
    return whole


def encode(picture: Image.Image, samples_format: str = "png", infotext: str | None = None) -> str:
    """A picture as an answer carries it: bare base64 of a file of that format.

    Raises:
        RefusedError: 500 for a format that is not known.
    """
    buffer = io.BytesIO()
    match samples_format.lower():
        case "png":
            about = PngImagePlugin.PngInfo()
            if infotext is not None:
                about.add_itxt("parameters", infotext)
            picture.save(buffer, "PNG", pnginfo=about)
        case "jpg" | "jpeg":
            picture.save(buffer, "JPEG", quality=80)
        case "webp":
            picture.save(buffer, "WEBP", quality=80)
        case _:
            raise http_error(500, "Invalid image format")
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: Any, fetched: list[str]) -> Image.Image:
    """An image of a request: bare base64 or a data URI; an address is noted in ``fetched``, never fetched.

    Raises:
        RefusedError: 500, each thing that is no image in its own way.
    """
    if not isinstance(text, str):
        raise crash("AttributeError", f"'{type(text).__name__}' object has no attribute 'startswith'")
    if text.startswith(("http://", "https://")):
        fetched.append(text)
        raise http_error(500, "Request to local resource not allowed")
    if text.startswith("data:image/"):
        try:
            text = text.split(";")[1].split(",")[1]
        except IndexError:
            raise crash("IndexError", "list index out of range") from None
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text)))
    except Exception:  # noqa: BLE001 (whatever Pillow says of it, the real program says this)
        raise http_error(500, "Invalid encoded image") from None
    try:
        picture.load()
    except OSError:
        raise crash("OSError", "image file is truncated") from None
    return picture


def is_blank(mask: Image.Image) -> bool:
    return mask.convert("L").getbbox() is None


def fingerprint(picture: Image.Image) -> str:
    return hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()


def sample_image(width: int = 64, height: int = 64, colour: str = "red", shape: str = "blue") -> str:
    """An image to send: bare base64 of a PNG with a shape on a coloured ground."""
    picture = Image.new("RGB", (width, height), colour)
    ImageDraw.Draw(picture).ellipse((width // 4, height // 4, width // 2, height // 2), fill=shape)
    return encode(picture)
