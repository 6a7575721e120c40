"""Images that come with a job, and images that go out."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from velesio_worker.engines.webui.pictures import (
    PREVIEW_SIDE,
    as_png,
    bare,
    check_picture,
    png_seed,
    png_size,
    preview,
)
from velesio_worker.wire.errors import BadJobError

PLENTY = 10_000


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def encoded(format_: str = "PNG", size: tuple[int, int] = (16, 8), mode: str = "RGB", **more: Any) -> str:
    out = io.BytesIO()
    Image.new(mode, size).save(out, format_, **more)
    return text(out.getvalue())


def with_text(words: str) -> str:
    about = PngImagePlugin.PngInfo()
    about.add_itxt("parameters", words)
    return encoded(pnginfo=about)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int) -> str:
    """A small file that says it is this large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return text(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


PNG = encoded()
MARKED = "U0VDUkVU" * 9
"""Base64 of no image, which is easy to find again."""


def wrong(picture: str, max_pixels: int = PLENTY) -> str:
    with pytest.raises(BadJobError) as caught:
        check_picture(picture, name="init_images.1", max_pixels=max_pixels)
    return str(caught.value)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_images_of_the_usual_formats_are_taken(format_: str) -> None:
    picture = encoded(format_)
    checked = check_picture(picture, name="mask", max_pixels=PLENTY)
    if format_ in {"PNG", "JPEG"}:
        assert checked == picture
    else:
        assert png_size(checked) == (16, 8), "not every server reads others"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_images_of_every_depth_are_taken(mode: str) -> None:
    picture = encoded(mode=mode)
    assert check_picture(picture, name="mask", max_pixels=PLENTY) == picture


@pytest.mark.parametrize(
    "sent",
    [
        f"data:image/png;base64,{PNG}",
        f"DATA:image/png;base64,{PNG}",
        f" data:image/png;base64,\n{PNG}",
        f"data:;base64,{PNG}",
        f"  {PNG}\r\n",
        "\n".join(PNG[place : place + 76] for place in range(0, len(PNG), 76)),
    ],
)
def test_an_image_goes_on_as_bare_base64_however_it_came(sent: str) -> None:
    assert check_picture(sent, name="mask", max_pixels=PLENTY) == PNG


@pytest.mark.parametrize(
    ("picture", "hint"),
    [
        ("!!!not base64!!!", "base64"),
        (MARKED[:-1], "base64"),
        (PNG.rstrip("=") + "=" * 5, "base64"),
        ("größe", "base64"),
        ("http://10.0.0.1/a.png", "base64"),
        ("data:image/png,%89PNG", "base64"),
        (f"data:image/png;base64;{MARKED}", "base64"),
        ("data:image/png;base64,", "base64"),
        ("data:image/png", "base64"),
        ("   ", "base64"),
        (MARKED, "send a PNG, JPEG, WebP, BMP or GIF"),
        (text(b"%PDF-1.7 SECRET"), "send a PNG, JPEG, WebP, BMP or GIF"),
        (text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "send a PNG, JPEG, WebP, BMP or GIF"),
        (text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "send a PNG, JPEG, WebP, BMP or GIF"),
        (encoded("TIFF"), "send a PNG, JPEG, WebP, BMP or GIF"),
    ],
)
def test_what_is_no_image_is_refused_with_its_place_and_what_to_send(picture: str, hint: str) -> None:
    said = wrong(picture)
    assert said.startswith("data.init_images.1 ")
    assert hint in said
    assert MARKED[:9] not in said
    assert "SECRET" not in said


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_an_image_that_is_cut_off_is_refused_as_such(format_: str) -> None:
    whole = base64.b64decode(encoded(format_, (64, 64)))
    said = wrong(text(whole[: len(whole) * 2 // 3]))
    assert said.startswith("data.init_images.1 is ")
    assert "damaged or cut off" in said or "no readable image" in said


def test_a_png_whose_head_is_damaged_is_no_image() -> None:
    content = bytearray(base64.b64decode(PNG))
    content[20] ^= 1
    assert "no readable image" in wrong(text(bytes(content)))


def test_an_image_of_too_many_pixels_is_refused_with_the_setting() -> None:
    assert check_picture(PNG, name="mask", max_pixels=16 * 8)
    said = wrong(PNG, max_pixels=16 * 8 - 1)
    assert said.startswith("data.init_images.1 has 16x8 pixels; SD_MAX_PIXELS allows 127")


@pytest.mark.parametrize("side", [9_600, 13_000, 20_000, 65_535, 2**31 - 1])
def test_a_small_file_with_a_huge_image_is_refused_before_it_is_unpacked(side: int) -> None:
    said = wrong(png_of(side, side))
    assert "SD_MAX_PIXELS allows 10000" in said
    assert "data.init_images.1" in said


def test_text_that_unpacks_to_more_than_memory_holds_is_refused() -> None:
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))
    content = base64.b64decode(PNG)
    assert "damaged or cut off" in wrong(text(content[:33] + bomb + content[33:]))


@given(st.data())
def test_an_image_with_any_damage_is_taken_or_refused(data: st.DataObject) -> None:
    content = bytearray(base64.b64decode(encoded(data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF"])))))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    sent = text(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        taken = check_picture(sent, name="mask", max_pixels=PLENTY)
    except BadJobError as error:
        said = str(error)
    else:
        assert taken == sent or png_size(taken) is not None
        return
    assert said.startswith("data.mask ")


def test_the_size_of_a_png_is_read_from_its_head() -> None:
    assert png_size(encoded(size=(96, 40))) == (96, 40)
    assert png_size(png_of(70_000, 8)) == (70_000, 8)


@pytest.mark.parametrize("other", ["", "a", "größe", "====", MARKED, encoded("JPEG"), PNG[:28], f"data:,{PNG}"])
def test_what_is_no_png_has_no_size_and_no_seed(other: str) -> None:
    assert png_size(other) is None
    assert png_seed(other) is None


A1111 = "a cat\nNegative prompt: dogs\nSteps: 4, Sampler: Euler, CFG scale: 7.0, Seed: 7, Size: 64x64, Version: 1.10.1"
SD_SERVER = (
    "a cat\nSteps: 4, CFG scale: 1.000000, Eta: inf, Seed: 1616884824, Size: 64x64, Sampler: NONE, "
    'SDCPP: {"prompt":{"positive":"a cat, Seed: 3"},"seed":1616884824}'
)


@pytest.mark.parametrize(
    ("words", "seed"),
    [
        (A1111, 7),
        (SD_SERVER, 1616884824),
        (f"Seed: 99, a packet of them\n{A1111}", 7),
        (f"a page that says\nSteps: 9, Seed: 99, Size: 8x8\n{A1111}", 7),
        (A1111.replace("dogs", "Seed: 99"), 7),
        ("a cat", None),
        ("Seed: 99", None),
        ("a cat\nSteps: 4, Sampler: Euler", None),
        ("", None),
    ],
)
def test_the_seed_is_read_from_behind_the_prompts(words: str, seed: int | None) -> None:
    assert png_seed(with_text(words)) == seed


def test_a_png_without_text_has_no_seed() -> None:
    assert png_seed(PNG) is None
    assert png_seed(png_of(100_000, 100_000)) is None


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("prefix", ["", "data:image/any;base64,"])
def test_an_image_of_another_format_becomes_a_png_of_the_same_size(format_: str, prefix: str) -> None:
    assert png_size(as_png(prefix + encoded(format_, (24, 40)))) == (24, 40)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_a_preview_is_a_small_jpeg_of_the_same_shape(mode: str) -> None:
    with Image.open(io.BytesIO(preview(encoded(size=(1024, 512), mode=mode)))) as small:
        assert (small.format, small.size) == ("JPEG", (PREVIEW_SIDE, PREVIEW_SIDE // 2))


def test_a_small_preview_is_not_blown_up() -> None:
    with Image.open(io.BytesIO(preview(f"data:image/png;base64,{PNG}"))) as small:
        assert small.size == (16, 8)


@pytest.mark.parametrize(
    "other", ["", "a", "größe", MARKED, PNG[:40], png_of(100_000, 100_000), png_of(11_000, 11_000)]
)
def test_what_is_no_image_becomes_no_png_and_no_preview(other: str) -> None:
    with pytest.raises(ValueError, match="no image"):
        as_png(other)
    with pytest.raises(ValueError, match="no image"):
        preview(other)


def test_only_a_data_uri_loses_what_stands_before_its_comma() -> None:
    assert bare(f"data:image/png;base64,{PNG}") == PNG
    assert bare(PNG) == PNG
    assert bare("a,b") == "a,b"
