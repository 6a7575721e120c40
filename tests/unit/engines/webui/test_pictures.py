"""Images that come with a job, and images that go out."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageFile, PngImagePlugin

import velesio_worker
from velesio_worker.engines.webui.passes import has_too_many_scans
from velesio_worker.engines.webui.pictures import (
    LARGEST_PREVIEW,
    PREVIEW_SIDE,
    PictureError,
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
    assert png_seed(other, PLENTY) is None


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
    assert png_seed(with_text(words), PLENTY) == seed


def test_a_png_without_text_has_no_seed() -> None:
    assert png_seed(PNG, PLENTY) is None
    assert png_seed(png_of(100_000, 100_000), PLENTY) is None


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("prefix", ["", "data:image/any;base64,"])
def test_an_image_of_another_format_becomes_a_png_of_the_same_size(format_: str, prefix: str) -> None:
    assert png_size(as_png(prefix + encoded(format_, (24, 40)), PLENTY)) == (24, 40)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_a_preview_is_a_small_jpeg_of_the_same_shape(mode: str) -> None:
    with Image.open(io.BytesIO(preview(encoded(size=(1024, 512), mode=mode), 1024 * 512))) as small:
        assert (small.format, small.size) == ("JPEG", (PREVIEW_SIDE, PREVIEW_SIDE // 2))


def test_a_small_preview_is_not_blown_up() -> None:
    with Image.open(io.BytesIO(preview(f"data:image/png;base64,{PNG}", PLENTY))) as small:
        assert small.size == (16, 8)


@pytest.mark.parametrize(
    "other", ["", "a", "größe", MARKED, PNG[:40], png_of(100_000, 100_000), png_of(11_000, 11_000)]
)
def test_what_is_no_image_becomes_no_png_and_no_preview(other: str) -> None:
    with pytest.raises(PictureError):
        as_png(other, PLENTY)
    with pytest.raises(PictureError):
        preview(other, PLENTY)


def jpeg_of_scans(count: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A progressive JPEG whose last scan comes so often."""
    out = io.BytesIO()
    Image.new("L", size, 128).save(out, "JPEG", progressive=True)
    content = out.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def gif_of_frames(count: int) -> bytes:
    """A GIF of one pixel and so many frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"\x21\xf9\x04\0\1\0\0\0" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + frame * count + b"\x3b"


def animation(format_: str, count: int) -> bytes:
    out = io.BytesIO()
    first, *others = [Image.new("RGB", (8, 8), (number * 3, 255 - number * 3, 0)) for number in range(count)]
    first.save(out, format_, save_all=True, append_images=others, lossless=True)
    return out.getvalue()


@pytest.mark.parametrize("count", [65, 100_000])
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(count: int) -> None:
    began = time.process_time()
    assert "more than 64 scans" in wrong(text(jpeg_of_scans(count)))
    with pytest.raises(PictureError, match="64 scans"):
        preview(text(jpeg_of_scans(count)), PLENTY)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "between", [b"", b"\xff\x05\xff\xff", b"\xff\xfe\0\2", b"\xff\xff\xff", b"\xff\xe1\0\6\xff\xd9ab"]
)
def test_no_marker_hides_a_scan(between: bytes) -> None:
    content = jpeg_of_scans(1)
    last = content.rindex(b"\xff\xda")
    assert has_too_many_scans(content[:last] + (between + content[last:-2]) * 70 + content[-2:])


def test_what_looks_like_scans_in_the_notes_of_a_jpeg_or_behind_it_is_none() -> None:
    content = jpeg_of_scans(1)
    note = b"\xff\xe1" + struct.pack(">H", 2 + 300) + b"\xff\xda\0" * 100
    sent = text(content[:2] + note + content[2:] + b"\xff\xda\0\2" * 1000)
    assert check_picture(sent, name="mask", max_pixels=PLENTY) == sent


def test_markers_without_an_end_are_no_jpeg() -> None:
    assert has_too_many_scans(b"\xff\xd8" + b"\xff\x01" * 20_000)


@pytest.mark.parametrize(
    "content",
    [gif_of_frames(65), gif_of_frames(200_000), animation("GIF", 70), animation("PNG", 70), animation("WEBP", 70)],
    ids=["65", "200000", "GIF", "PNG", "WEBP"],
)
def test_an_image_of_very_many_frames_is_refused(content: bytes) -> None:
    assert "more than 64 frames: send the one that is meant" in wrong(text(content))


@pytest.mark.parametrize("content", [gif_of_frames(64), *(animation(name, 60) for name in ("GIF", "PNG", "WEBP"))])
def test_an_image_of_some_frames_is_taken(content: bytes) -> None:
    assert png_size(check_picture(text(content), name="mask", max_pixels=PLENTY)) is not None


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(hello) print\n%%EOF\n"


def test_postscript_starts_no_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for use in (as_png, preview):
        with pytest.raises(PictureError, match="no readable image"):
            use(text(EPS), PLENTY)
    wrong(text(EPS))
    assert not started.exists()


def test_images_are_opened_in_one_place_of_the_worker_and_one_of_the_command_line_each_by_few_formats() -> None:
    root = Path(velesio_worker.__file__).parent
    opened = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    opened = {name: text for name, text in opened.items() if "Image.open(" in text}
    assert opened.keys() == {"cli/pictures.py", "engines/webui/pictures.py"}
    assert all(text.count("Image.open(") == text.count("formats=") == 1 for text in opened.values())


def test_whatever_goes_wrong_with_an_image_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for trouble in (subprocess.CalledProcessError(1, "gs"), RuntimeError("odd"), IndexError(), MemoryError()):
        monkeypatch.setattr(Image.Image, "convert", Mock(side_effect=trouble))
        with pytest.raises(PictureError):
            preview(PNG, PLENTY)


@pytest.mark.parametrize("use", [as_png, preview])
def test_an_image_of_too_many_pixels_is_never_decoded(
    use: Callable[[str, int], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Mock()
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(PictureError, match="16x8 pixels"):
        use(PNG, 16 * 8 - 1)
    load.assert_not_called()


def test_a_preview_of_more_than_eight_mebibytes_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Mock()
    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(PictureError, match="characters"):
        preview("A" * (LARGEST_PREVIEW + 4), PLENTY)
    opened.assert_not_called()


def test_a_large_jpeg_is_decoded_no_larger_than_its_preview_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    convert = Image.Image.convert

    def watched(image: Image.Image, *args: Any) -> Image.Image:
        decoded.append(image.size)
        return convert(image, *args)

    monkeypatch.setattr(Image.Image, "convert", watched)
    preview(encoded("JPEG", (4096, 2048)), 4096 * 2048)
    assert decoded == [(512, 256)]


def test_only_a_data_uri_loses_what_stands_before_its_comma() -> None:
    assert bare(f"data:image/png;base64,{PNG}") == PNG
    assert bare(PNG) == PNG
    assert bare("a,b") == "a,b"
