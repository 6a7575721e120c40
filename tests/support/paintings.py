"""Scripts of image jobs for the scripted worker, which go on when the test says so."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Sequence
from typing import Any, Final

import anyio
from PIL import Image

from tests.support.scripted_worker import Desk

SAMPLERS: Final = ["Euler a", "DPM++ 2M", "LCM"]
_INFO: Final = {"name": "sd", "kind": "image", "samplers": SAMPLERS, "schedulers": ["Karras"], "loaded": True}


def png(colour: str = "teal", size: tuple[int, int] = (64, 64)) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def painted(desk: Desk, colours: Sequence[str] = ("teal",), seed: int = 7, **more: Any) -> dict[str, Any]:
    """The result of an image job, as a worker writes it."""
    data = desk.data
    used = {name: data.get(name) for name in ("prompt", "steps", "width", "height", "cfg_scale")}
    used |= {"sampler_name": data.get("sampler_name", "Euler a"), "seed": seed, "model": "sd", "negative_prompt": ""}
    return {
        "images": [base64.b64encode(png(colour)).decode() for colour in colours],
        "parameters": used,
        "seeds": [seed + number for number in range(len(colours))],
        "info": {"sampler": used["sampler_name"], "version": "v1.10"},
        **more,
    }


class Painter:
    """A script that paints step by step: each ``go`` of the test is one.

    Args:
        commands: a plain client of Redis.
        steps: how many there are.
        outcome: the result's colours and what else there is of it.
    """

    def __init__(self, commands: Any, steps: int = 4, colours: Sequence[str] = ("teal",), **outcome: Any) -> None:
        self._commands = commands
        self._steps = steps
        self._colours = colours
        self._outcome = outcome
        self._free = threading.Semaphore(0)
        self.desks: list[Desk] = []

    def go(self, steps: int = 1) -> None:
        """Let it make so many more steps; the result is one, too."""
        self._free.release(steps)

    async def __call__(self, desk: Desk) -> None:
        if desk.type not in {"txt2img", "img2img"}:
            await desk.start()
            await desk.end(_INFO)
            return
        self.desks.append(desk)
        await desk.start()
        for step in range(1, self._steps + 1):
            await self._turn()
            await self._progress(desk, step)
        await self._turn()
        await desk.end(painted(desk, self._colours, **self._outcome))

    async def _turn(self) -> None:
        while not self._free.acquire(blocking=False):
            await anyio.sleep(0.01)

    async def _progress(self, desk: Desk, step: int) -> None:
        key = f"{{result:{desk.id}}}:preview"
        preview = io.BytesIO()
        Image.new("RGB", (32, 32), (60 * step % 255, 120, 120)).save(preview, "JPEG")
        self._commands.set(key, preview.getvalue(), ex=60)
        told = {"stage": "sampling", "step": step, "steps": self._steps, "fraction": step / (self._steps + 1)}
        await desk.write("progress", {**told, "eta": float(self._steps - step), "preview": key})
