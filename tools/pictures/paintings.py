"""What is made on the picture of the image tab: landscapes that are drawn here, as no GPU is needed for it."""

from __future__ import annotations

import base64
import io
import math
import random
from typing import Any, Final

import anyio
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from tests.support.scripted_worker import Desk

from velesio_worker.queue.keys import preview_key

MODEL: Final = "example-XL.safetensors"
STEPS: Final = 24
HELD_AT: Final = 15
"""The step at which the last image is seen."""

STEP_SECONDS: Final = 0.02

PROMPTS: Final = {
    "Mountains at dawn, flat colours": ("#f7b267", "#fbe8d3", "#fff3d6", ("#d98f7a", "#b0637a", "#6d3b63", "#3b2347")),
    "A bay under the moon, flat colours": (
        "#0f1b3d",
        "#33477a",
        "#f4f1de",
        ("#2a3a66", "#1f2c52", "#152040", "#0b142b"),
    ),
    "Dunes at noon, flat colours": ("#6ec3d8", "#dff1ee", "#fffdf2", ("#f2c98a", "#e0a458", "#c07f3a", "#8f5a2a")),
    "Forest in the mist, flat colours": (
        "#9fc3b5",
        "#eaf3ec",
        "#fffef5",
        ("#8fb8a2", "#5f9480", "#386b5b", "#1d4438"),
    ),
}
"""What is asked for, and the colours of it: the sky above and at the horizon, sun or moon, hills from far to near."""

HELD: Final = list(PROMPTS)[-1]


def painted(prompt: str, seed: int, size: int = 512) -> Image.Image:
    """Draw a landscape."""
    high, low, light, hills = PROMPTS[prompt]
    dice = random.Random(seed)  # noqa: S311 (it only has to look different)
    sky = ImageOps.colorize(Image.linear_gradient("L").resize((size, size)), high, low)  # pyright: ignore[reportUnknownMemberType]
    draw = ImageDraw.Draw(sky)
    x, y, r = size * dice.uniform(0.25, 0.75), size * dice.uniform(0.22, 0.34), size * 0.075
    draw.ellipse((x - r, y - r, x + r, y + r), fill=light)
    for number, colour in enumerate(hills):
        base = size * (0.5 + 0.13 * number)
        waves = [(dice.uniform(0.5, 1) / n, dice.uniform(1, 2.2) * n, dice.uniform(0, 6.3)) for n in (1, 2, 4)]
        ridge = [(at, base + _height(waves, at / size) * 0.09 * size) for at in range(0, size + 8, 4)]
        draw.polygon([*ridge, (size + 8, size), (0, size)], fill=colour)
    return sky


def _height(waves: list[tuple[float, float, float]], at: float) -> float:
    return sum(height * math.sin(frequency * at * 3 + phase) for height, frequency, phase in waves)


async def script(desk: Desk) -> None:
    """Answer as a worker with a WebUI does; the image that is held is never finished."""
    await desk.write("start", {"type": desk.type, "attempt": 1, "worker": "gpu-3", "model": MODEL, "mode": "fresh"})
    if desk.type == "model_info":
        await desk.end({"name": MODEL, "kind": "image", "samplers": ["Euler a", "DPM++ 2M"], "schedulers": ["Karras"]})
        return
    prompt: str = desk.data["prompt"]
    seed: int = desk.data.get("seed", 1)
    picture = painted(prompt, seed)
    for step in range(1, STEPS):
        preview = preview_key(desk.id)
        await desk.keep(preview, _jpeg(picture, 1 - step / STEPS))
        progress: dict[str, Any] = {"stage": "sampling", "step": step, "steps": STEPS, "fraction": step / STEPS}
        await desk.write("progress", progress | {"eta": round((STEPS - step) * 0.4, 1), "preview": preview})
        if prompt == HELD and step == HELD_AT:
            await desk.cancelled()
        await anyio.sleep(STEP_SECONDS)
    parameters = {**desk.data, "seed": seed, "model": MODEL, "sampler_name": "DPM++ 2M"}
    await desk.end({"images": [_png(picture)], "parameters": parameters, "seeds": [seed], "info": {}})


def _png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _jpeg(picture: Image.Image, noise: float) -> bytes:
    """Return a preview, which is the less clear the earlier it is."""
    small = picture.resize((192, 192)).filter(ImageFilter.GaussianBlur(6 * noise))  # pyright: ignore[reportUnknownMemberType]
    grain = Image.merge("RGB", [Image.effect_noise(small.size, 60) for _ in range(3)])
    file = io.BytesIO()
    Image.blend(small, grain, 0.5 * noise).save(file, "JPEG", quality=80)
    return file.getvalue()
