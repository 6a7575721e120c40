"""One request, worked out: seeds, sampler, sizes, passes and the texts about them."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from tests.doubles.webui.catalogue import (
    LATENT_UPSCALE_MODES,
    SAMPLERS,
    UPSCALERS,
    VERSION,
    corrected,
    find_sampler,
    schedule,
)
from tests.doubles.webui.pictures import CELL, fingerprint, is_blank
from tests.doubles.webui.setup import crash
from tests.doubles.webui.shelf import Checkpoint, Shelf

_SEEDS: Final = 4294967294
_ALMOST_ONE: Final = 0.999
_SIGN: Final = re.compile(r"\\.|([()\[\]:|])", re.DOTALL)
_MICRO: Final = 1e-7
_GROWTH: Final = 2.6
_FILLS: Final = {0: "fill", 2: "latent noise", 3: "latent nothing"}


@dataclass
class Order:
    """What a request comes to.

    Attributes:
        sources: the decoded init images; None for txt2img.
        mask: the decoded mask.
    """

    fields: dict[str, Any]
    sources: list[Image.Image] | None = None
    mask: Image.Image | None = None
    seeds: list[int] = field(default_factory=list[int])
    subseeds: list[int] = field(default_factory=list[int])
    sampler: dict[str, Any] = field(default_factory=dict[str, Any])
    extra: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        seed, subseed = (_drawn(self.fields[name]) for name in ("seed", "subseed"))
        self.seeds = [seed + (number if not self.fields["subseed_strength"] else 0) for number in range(self.count)]
        self.subseeds = [subseed + number for number in range(self.count)]
        self.sampler = find_sampler(self.fields["sampler_name"] or self.fields["sampler_index"])
        if self.sources is not None:
            self.extra["Denoising strength"] = self.fields["denoising_strength"]
        if self.mask is not None:
            self._describe_mask(self.mask)
        if self.fields.get("enable_hr") and self.fields["hr_upscaler"]:
            self.extra["Hires upscaler"] = self.fields["hr_upscaler"]
        if self.refiner:
            self.extra["Refiner"] = self.refiner
        if label := schedule(self.sampler, self.fields["scheduler"]):
            self.extra["Schedule type"] = label

    def _describe_mask(self, mask: Image.Image) -> None:
        blur = self.fields["mask_blur"]
        self.extra["Mask blur"] = self.fields["mask_blur_x"] if blur is None else blur
        if is_blank(mask):
            return
        if self.fields["inpaint_full_res"]:
            self.extra["Inpaint area"] = "Only masked"
            self.extra["Masked area padding"] = self.fields["inpaint_full_res_padding"]
        if self.fields["inpainting_fill"] in _FILLS:
            self.extra["Masked content"] = _FILLS[self.fields["inpainting_fill"]]

    @property
    def warning(self) -> str | None:
        """What the real program says of words for sampler and scheduler that it would have put otherwise."""
        given = self.fields["sampler_name"] or self.fields["sampler_index"], self.fields["scheduler"]
        real = corrected(self.sampler, self.fields["scheduler"])
        if given == real:
            return None
        return f'Sampler Scheduler autocorrection: "{given[0]}" -> "{real[0]}", "{given[1]}" -> "{real[1]}"'

    @property
    def parsing(self) -> float:
        """How long the real program's parser takes for the prompts, in seconds."""
        prompts = (self.fields[name] or "" for name in ("prompt", "negative_prompt"))
        return sum(len([one for one in _SIGN.findall(prompt) if one]) ** _GROWTH * _MICRO for prompt in prompts)

    @property
    def refiner(self) -> str | None:
        name = self.fields["refiner_checkpoint"]
        return None if name in {None, "", "None", "none"} else name

    @property
    def batch(self) -> int:
        """How many pictures are made at once: as many as there are images, if there is more than one."""
        several = self.sources is not None and len(self.sources) > 1
        return len(self.sources) if several and self.sources else int(self.fields["batch_size"])

    @property
    def count(self) -> int:
        return int(self.fields["batch_size"] * self.fields["n_iter"])

    @property
    def strength(self) -> float | None:
        """The denoising strength as ``info`` has it: only where it is used."""
        used = self.sources is not None or self.fields["enable_hr"]
        return self.fields["denoising_strength"] if used else None

    @property
    def passes(self) -> list[int]:
        """The number of steps of each pass over a batch: two with high resolution, fewer of them from an image."""
        steps = int(self.fields["steps"])
        if self.sources is not None:
            return [int(min(self.fields["denoising_strength"] or 0.0, _ALMOST_ONE) * steps) + 1]
        return [steps, self.fields["hr_second_pass_steps"] or steps] if self.fields.get("enable_hr") else [steps]

    @property
    def size(self) -> tuple[int, int]:
        """The pictures' size in pixels, before it is cut to multiples of 8."""
        width, height = self.fields["width"], self.fields["height"]
        if not self.fields.get("enable_hr"):
            return width, height
        wide, high = self.fields["hr_resize_x"], self.fields["hr_resize_y"]
        if wide or high:
            return wide or high * width // height, high or wide * height // width
        return int(width * self.fields["hr_scale"]), int(height * self.fields["hr_scale"])

    @property
    def checkpoints(self) -> list[str]:
        """The names of those that are loaded in the midst of it."""
        second = self.fields["hr_checkpoint_name"] if self.fields.get("enable_hr") else None
        return [name for name in (self.refiner, second) if name]

    def _check_names(self, shelf: Shelf) -> None:
        if self.fields.get("enable_hr"):
            upscaler, sampler = self.fields["hr_upscaler"], self.fields["hr_sampler_name"]
            if upscaler and upscaler not in {one["name"] for one in (*UPSCALERS, *LATENT_UPSCALE_MODES)}:
                raise crash("Exception", f"could not find upscaler named {upscaler}")
            if sampler and sampler not in {one["name"] for one in SAMPLERS}:
                raise crash("AssertionError", f"bad sampler name: {sampler}")
        for checkpoint in self.checkpoints:
            if shelf.find(checkpoint) is None:
                raise crash("Exception", f"Could not find checkpoint with name {checkpoint}")

    def check(self, shelf: Shelf) -> None:
        """Fail as sampling would.

        Raises:
            RefusedError: 500.
        """
        self._check_names(shelf)
        if self.sources is not None:
            if not self.sources:
                text = "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [0]"
                raise crash("RuntimeError", text)
            if len(self.sources) > max(self.fields["batch_size"], 1):
                given, most = len(self.sources), self.fields["batch_size"]
                raise crash("RuntimeError", f"bad number of images passed: {given}; expecting {most} or less")
        columns, rows = self.fields["width"] // CELL, self.fields["height"] // CELL
        if columns < 0 or rows < 0:
            negative = columns if columns < 0 else rows
            text = f"Trying to create tensor with negative dimension {negative}: [4, {rows}, {columns}]"
            raise crash("RuntimeError", text)
        if columns == 0 or rows == 0:
            size = f"({rows + 2} x {columns + 2})"
            kernel = "Kernel size: (3 x 3). Kernel size can't be greater than actual input size"
            raise crash("RuntimeError", f"Calculated padded input size per channel: {size}. {kernel}")
        if self.fields["steps"] <= 0:
            raise crash("ZeroDivisionError", "integer division or modulo by zero")

    def content(self, number: int, model: str, passed: list[int]) -> tuple[object, ...]:
        """What a picture is made from; ``passed`` are the steps that were really done."""
        names = ("prompt", "negative_prompt", "cfg_scale", "width", "height", "steps", "subseed_strength")
        more = (
            "tiling",
            "restore_faces",
            "s_churn",
            "s_tmin",
            "s_tmax",
            "s_noise",
            "eta",
            "refiner_switch_at",
            "styles",
        )
        second = ("hr_prompt", "hr_negative_prompt", "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler")
        given = tuple(
            self.fields.get(name) for name in (*names, *more, *(second if self.fields.get("enable_hr") else ()))
        )
        images = tuple(fingerprint(one) for one in (*(self.sources or ()), *([self.mask] if self.mask else ())))
        return (given, self.seeds[number], model, self.sampler["name"], self.extra, images, passed)


def _drawn(seed: int | None) -> int:
    return random.randrange(_SEEDS) if seed is None or seed == -1 else seed


def infotext(order: Order, model: Checkpoint, shelf: Shelf, number: int) -> str:
    """The text about one picture, as it also stands in the picture itself."""
    fields = order.fields
    skip = shelf.value("CLIP_stop_at_last_layers")
    named: dict[str, Any] = {
        "Steps": fields["steps"],
        "Sampler": order.sampler["name"],
        "Schedule type": "Automatic",
        "CFG scale": fields["cfg_scale"],
        "Seed": order.seeds[number],
        "Size": f"{fields['width']}x{fields['height']}",
        **({"Model hash": model.hash} if model.hash else {}),
        "Model": model.name,
        **({"Clip skip": skip} if skip > 1 else {}),
        **order.extra,
        "Version": VERSION,
    }
    about = ", ".join(f"{name}: {value}" for name, value in named.items())
    negative = f"\nNegative prompt: {fields['negative_prompt']}" if fields["negative_prompt"] else ""
    return f"{fields['prompt']}{negative}\n{about}"


def describe(order: Order, model: Checkpoint, shelf: Shelf, infotexts: list[str], first: int) -> dict[str, Any]:
    """The document that an answer's ``info`` is the text of; nothing in it says that a generation was interrupted."""
    fields = order.fields
    prompt = ", ".join([fields["prompt"], *(text for name, text in shelf.styles if name in (fields["styles"] or ()))])
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * order.count,
        "negative_prompt": fields["negative_prompt"],
        "all_negative_prompts": [fields["negative_prompt"]] * order.count,
        "seed": order.seeds[0],
        "all_seeds": order.seeds,
        "subseed": order.subseeds[0],
        "all_subseeds": order.subseeds,
        "subseed_strength": fields["subseed_strength"],
        "width": fields["width"],
        "height": fields["height"],
        "sampler_name": order.sampler["name"],
        "cfg_scale": fields["cfg_scale"],
        "steps": fields["steps"],
        "batch_size": fields["batch_size"],
        "restore_faces": bool(fields["restore_faces"]),
        "face_restoration_model": None,
        "sd_model_name": model.name,
        "sd_model_hash": model.hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": fields["seed_resize_from_w"],
        "seed_resize_from_h": fields["seed_resize_from_h"],
        "denoising_strength": order.strength,
        "extra_generation_params": order.extra,
        "index_of_first_image": first,
        "infotexts": infotexts,
        "styles": fields["styles"] or [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": shelf.value("CLIP_stop_at_last_layers"),
        "is_using_inpainting_conditioning": False,
        "version": VERSION,
    }
