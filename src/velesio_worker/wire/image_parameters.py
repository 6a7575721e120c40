"""The parameters of image jobs: their ``data``, checked (wire protocol, section 5)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from velesio_worker.wire.bounded import NotNegative, within
from velesio_worker.wire.limits import (
    LONGEST_NAME,
    MOST_ASIDE,
    MOST_EXTRA_VALUES,
    MOST_IMAGES_SENT,
    MOST_PICTURE,
    MOST_STYLES,
)
from velesio_worker.wire.parameters import FETCHED, ModelParameters, NoEffect
from velesio_worker.wire.prompt_syntax import Prompt

RANDOM: Final = -1
"""The seed that asks for any seed."""

LARGEST_SEED: Final = 2**32 - 1


def _encoded(value: str) -> str:
    if FETCHED.match(value):
        raise ValueError("images are taken as base64, bare or as a data URI (data:image/png;base64,…), never fetched")
    return value


Side = Annotated[int, Field(ge=64, le=16384, multiple_of=8)]
Seed = Annotated[int, Field(ge=RANDOM, le=LARGEST_SEED)]
Picture = Annotated[str, Field(min_length=1, max_length=MOST_PICTURE), AfterValidator(_encoded)]
Share = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=150)]
Sigma = NotNegative
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
"""A name that may be empty, which is none."""

WITHIN_SCRIPTS: Final = within(MOST_EXTRA_VALUES, MOST_PICTURE)
"""What scripts are given: pictures, too."""

ResizedSide = Annotated[int, Field(ge=0, le=16384, multiple_of=8)]
OnlyTrue = Annotated[Literal[True] | None, Field(exclude=True)]
OnlyFalse = Annotated[Literal[False] | None, Field(exclude=True)]

CELL: Final = 8
"""Sides of images are multiples of so many pixels: what is left over is cut off."""

REFINED_FROM: Final = 0.8
"""Where a refiner takes over if the job does not say: a WebUI without a word would begin with it."""

HIRES_STRENGTH: Final = 0.75
"""How much the second pass of a hires fix changes if the job does not say: a WebUI without a word fails."""


class ImageParameters(ModelParameters):
    """What the jobs that make images have in common. Defaults are the wire protocol's; sizes are in pixels."""

    prompt: Prompt
    negative_prompt: Prompt = ""
    width: Side = 512
    height: Side = 512
    steps: Steps = 20
    cfg_scale: Annotated[float, Field(ge=0, le=100)] = 7.5
    sampler_name: Annotated[str, Field(min_length=1, max_length=128)] = "Euler a"
    scheduler: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    seed: Seed = RANDOM
    subseed: Seed | None = None
    subseed_strength: Share | None = None
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    n_iter: Annotated[int, Field(ge=1, le=1024)] = 1
    override_settings: Annotated[dict[str, Any], within(MOST_ASIDE)] | None = None
    script_name: Name | None = None
    script_args: Annotated[list[Any], WITHIN_SCRIPTS] | None = None
    alwayson_scripts: Annotated[dict[str, Any], WITHIN_SCRIPTS] | None = None
    styles: Annotated[list[Name], Field(max_length=MOST_STYLES, fail_fast=True)] | None = None
    tiling: bool | None = None
    restore_faces: bool | None = None
    refiner_checkpoint: Name | None = None
    refiner_switch_at: Share | None = None
    s_churn: Sigma | None = None
    s_tmin: Sigma | None = None
    s_tmax: Sigma | None = None
    s_noise: Sigma | None = None
    eta: Share | None = None
    enable_hr: bool | None = None
    hr_scale: Annotated[float, Field(ge=0, le=16)] | None = None
    hr_upscaler: Name | None = None
    hr_second_pass_steps: Annotated[int, Field(ge=0, le=150)] | None = None
    hr_resize_x: ResizedSide | None = None
    hr_resize_y: ResizedSide | None = None
    hr_checkpoint_name: Name | None = None
    hr_sampler_name: Annotated[str, Field(max_length=128)] | None = None
    hr_scheduler: Annotated[str, Field(max_length=128)] | None = None
    hr_prompt: Prompt | None = None
    hr_negative_prompt: Prompt | None = None
    send_images: OnlyTrue = None
    save_images: OnlyFalse = None
    do_not_save_samples: NoEffect = None
    do_not_save_grid: NoEffect = None
    override_settings_restore_afterwards: NoEffect = None

    @property
    def images(self) -> int:
        """How many images are asked for."""
        return self.batch_size * self.n_iter

    def decides(self, *names: str) -> bool:
        """Whether the job decides these parameters, or else the engine's own defaults hold."""
        return self.defaults != "engine" or self.model_fields_set.issuperset(names)

    @property
    def enlarged(self) -> tuple[int, int]:
        """The largest width and height that are worked on, in pixels."""
        return self.width, self.height

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the images that are asked for, in pixels."""
        return self.width, self.height


class Txt2ImgParameters(ImageParameters):
    """Parameters of a ``txt2img`` job.

    Attributes:
        denoising_strength: how much the second pass of a hires fix changes; without one it has no effect.
    """

    denoising_strength: Share | None = None

    @property
    def enlarged(self) -> tuple[int, int]:
        """As above; a hires fix enlarges until both sides are reached, and cuts off what is too much.

        The sums are AUTOMATIC1111's (``calculate_target_resolution``).
        """
        width, height, wide, high = self.width, self.height, self.hr_resize_x or 0, self.hr_resize_y or 0
        if not self.enable_hr:
            return width, height
        if not wide and not high:
            scale = 2.0 if self.hr_scale is None else self.hr_scale
            return int(width * scale), int(height * scale)
        if not high or (wide and width / height < wide / high):
            return wide, wide * height // width
        return high * width // height, high

    @property
    def final_size(self) -> tuple[int, int]:
        """As above, after the hires fix."""
        width, height = self.enlarged
        if self.enable_hr and self.hr_resize_x and self.hr_resize_y:
            width, height = self.hr_resize_x, self.hr_resize_y
        return width - width % CELL, height - height % CELL

    @property
    def mergeable(self) -> bool:
        """Whether the job may be run together with others: it wants any seed, and nothing that makes its own loop."""
        loops = self.script_name or self.alwayson_scripts or self.n_iter > 1
        varied = self.subseed_strength or self.subseed not in {None, RANDOM}  # of one seed, not each of its own
        return self.seed == RANDOM and not loops and not varied

    def same_but_for_seed(self, other: Txt2ImgParameters) -> bool:
        """Whether two jobs ask for the same, of which each gets its own."""
        return self.mergeable and other.mergeable and self == other


class Img2ImgParameters(ImageParameters):
    """Parameters of an ``img2img`` job."""

    init_images: Annotated[list[Picture], Field(min_length=1, max_length=MOST_IMAGES_SENT, fail_fast=True)]
    denoising_strength: Share = 0.75
    mask: Picture | None = None
    mask_blur: Annotated[int, Field(ge=0, le=64)] | None = None
    inpainting_fill: Annotated[int, Field(ge=0, le=3)] | None = None
    inpainting_mask_invert: Annotated[int, Field(ge=0, le=1)] | None = None
    inpaint_full_res: bool | None = None
    inpaint_full_res_padding: Annotated[int, Field(ge=0, le=256)] | None = None
    resize_mode: Annotated[int, Field(ge=0, le=3)] | None = None
