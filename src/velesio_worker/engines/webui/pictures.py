"""Images that come with a job, and images that go out: decoded, measured, made small. Slow: for a thread, or a process.

Whoever sent them, they are opened in one place, which reads few formats and has limits.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

from PIL import Image, UnidentifiedImageError

from velesio_worker.core.base64_text import decode_base64, without_spaces
from velesio_worker.engines.webui.passes import MOST_FRAMES, MOST_SCANS, has_too_many_frames, has_too_many_scans
from velesio_worker.wire.errors import BadJobError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # SD_MAX_PIXELS is the limit

PREVIEW_SIDE: Final = 256
"""The longer side of a preview, in pixels."""

LARGEST_PREVIEW: Final = 8 * 1024 * 1024
"""So many characters of base64 a WebUI's preview may have."""

_PREVIEW_QUALITY: Final = 70
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Pillow reads some forty others, PostScript among them by starting Ghostscript."""

_READ_BY_ALL: Final = frozenset({"PNG", "JPEG"})
"""sd-server may be built without WebP, and makes its image from nothing where it cannot read what it was sent."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SEED: Final = re.compile(r"^Steps: \d+, .*?\bSeed: (\d+)", re.MULTILINE)
"""In the line behind the prompts, the last of its kind: a prompt may hold such words, too."""

_BOMB: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_HEAD: Final = 32
"""How many characters of base64 hold a PNG's signature, the length and name of its first chunk, and its size."""


class PictureError(ValueError):
    """An image that cannot be used; the text goes on behind its name."""


def bare(picture: str) -> str:
    """Return an image's base64 without what stands before it in a data URI."""
    return picture.partition(",")[2] if picture.lstrip()[:5].lower() == "data:" else picture


def check_picture(picture: str, *, name: str, max_pixels: int) -> str:
    """Decode an image that came with a job.

    Args:
        picture: base64, bare or in a data URI.
        name: what it is called in an error.
        max_pixels: how many it may have.

    Returns:
        the same as bare base64, without line breaks; as a PNG unless it is that or a JPEG, which every server reads.

    Raises:
        BadJobError: it is none that can be used, and why.
    """
    text = without_spaces(bare(picture))
    if not text:
        raise BadJobError(f"data.{name} holds no image: send base64, bare or as data:image/png;base64,…")
    try:
        content = decode_base64(text)
    except (binascii.Error, ValueError):
        raise BadJobError(f"data.{name} is no base64 (with padding; bare or as data:image/png;base64,…).") from None
    try:
        with _opened(content, max_pixels) as image:
            image.load()
            return text if image.format in _READ_BY_ALL else _png(image)
    except PictureError as error:
        raise BadJobError(f"data.{name} {error}.") from None


@contextmanager
def _opened(content: bytes, max_pixels: int) -> Generator[Image.Image]:
    """Open an image, which whoever wants its pixels loads.

    Raises:
        PictureError: it is none of those that are read, has too many pixels, scans or frames, or is damaged.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _check(image, content, max_pixels)
            yield image
    except PictureError:
        raise
    except _BOMB:
        raise PictureError(f"has too many pixels; SD_MAX_PIXELS allows {max_pixels}") from None
    except UnidentifiedImageError:
        raise PictureError("is no readable image: send a PNG, JPEG, WebP, BMP or GIF") from None
    except MemoryError:
        raise PictureError("takes too much memory: send a smaller one") from None
    except Exception as error:  # noqa: BLE001 (Pillow's plugins raise whatever their formats lead to)
        raise PictureError(f"is damaged or cut off ({error})") from None


def _check(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Check how much there is to decode, before that is done."""
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(f"has {width}x{height} pixels; SD_MAX_PIXELS allows {max_pixels}: send a smaller one")
    if has_too_many_scans(content):
        raise PictureError(f"is a JPEG of more than {MOST_SCANS} scans: save it anew")
    if has_too_many_frames(content) or getattr(image, "n_frames", 1) > MOST_FRAMES:
        raise PictureError(f"has more than {MOST_FRAMES} frames: send the one that is meant")


@contextmanager
def _decoded(picture: str, max_pixels: int) -> Generator[Image.Image]:
    """Open an image in base64. Raises PictureError as :func:`_opened` does."""
    try:
        content = decode_base64(bare(picture))
    except ValueError:
        raise PictureError("is not in base64") from None
    with _opened(content, max_pixels) as image:
        yield image


def png_size(picture: str) -> tuple[int, int] | None:
    """Return width and height of a PNG in base64, in pixels; None if it is no PNG."""
    try:
        head = base64.b64decode(picture[:_HEAD])
    except (binascii.Error, ValueError):
        return None
    if len(head) < len(_PNG) + 16 or not head.startswith(_PNG):
        return None
    return struct.unpack(">II", head[16:24])


def png_seed(picture: str, max_pixels: int) -> int | None:
    """Return the seed that stands in a PNG's text, where WebUIs write what they made it with; None if none does."""
    text = None
    with suppress(PictureError), _decoded(picture, max_pixels) as image:
        text = image.info.get("parameters")
    seeds = _SEED.findall(text) if isinstance(text, str) else []
    return int(seeds[-1]) if seeds else None


def picture_size(picture: str, max_pixels: int) -> tuple[int, int] | None:
    """Return width and height of any image in base64, in pixels; None if it is none, or has more than those."""
    size = png_size(picture)
    if size is None:
        with suppress(PictureError), _decoded(picture, max_pixels) as image:
            size = image.size
    return size if size is not None and all(size) else None


def as_png(picture: str, max_pixels: int) -> str:
    """Return an image of another format as a PNG, both in base64. Raises PictureError if it cannot be used."""
    with _decoded(picture, max_pixels) as image:
        return _png(image)


def _png(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def preview(picture: str, max_pixels: int) -> bytes:
    """Make a small JPEG of an image in base64. Raises PictureError if it cannot be used, or is very large."""
    if len(picture) > LARGEST_PREVIEW:
        raise PictureError(f"has {len(picture)} characters")
    with _decoded(picture, max_pixels) as image:
        image.draft("RGB", (PREVIEW_SIDE, PREVIEW_SIDE))  # a JPEG is decoded no larger than that needs
        small = image.convert("RGB")
        small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=_PREVIEW_QUALITY)
    return out.getvalue()
