"""The parameters of image jobs: their ``data``, checked (wire protocol, section 5)."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from velesio_worker.wire.parameters import FETCHED, ModelParameters

RANDOM: Final = -1
"""The seed that asks for any seed."""

LARGEST_SEED: Final = 2**32 - 1


def _encoded(value: str) -> str:
    if FETCHED.match(value):
        raise ValueError("images are taken as base64, bare or as a data URI (data:image/png;base64,…), never fetched")
    return value


Side = Annotated[int, Field(ge=64, le=16384, multiple_of=8)]
Seed = Annotated[int, Field(ge=RANDOM, le=LARGEST_SEED)]
Picture = Annotated[str, Field(min_length=1), AfterValidator(_encoded)]


class ImageParameters(ModelParameters):
    """What the jobs that make images have in common. Defaults are the wire protocol's; sizes are in pixels."""

    prompt: str
    negative_prompt: str = ""
    width: Side = 512
    height: Side = 512
    steps: Annotated[int, Field(ge=1, le=150)] = 20
    cfg_scale: Annotated[float, Field(ge=0, le=100)] = 7.5
    sampler_name: Annotated[str, Field(min_length=1, max_length=128)] = "Euler a"
    scheduler: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    seed: Seed = RANDOM
    subseed: Seed | None = None
    subseed_strength: Annotated[float, Field(ge=0, le=1)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    n_iter: Annotated[int, Field(ge=1, le=1024)] = 1
    override_settings: dict[str, Any] | None = None
    script_name: str | None = None
    script_args: list[Any] | None = None
    alwayson_scripts: dict[str, Any] | None = None

    @property
    def images(self) -> int:
        """How many images are asked for."""
        return self.batch_size * self.n_iter


class Txt2ImgParameters(ImageParameters):
    """Parameters of a ``txt2img`` job."""

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

    init_images: Annotated[list[Picture], Field(min_length=1, fail_fast=True)]
    denoising_strength: Annotated[float, Field(ge=0, le=1)] = 0.75
    mask: Picture | None = None
    mask_blur: Annotated[int, Field(ge=0, le=64)] | None = None
    inpainting_fill: Annotated[int, Field(ge=0, le=3)] | None = None
    inpainting_mask_invert: Annotated[int, Field(ge=0, le=1)] | None = None
    inpaint_full_res: bool | None = None
    inpaint_full_res_padding: Annotated[int, Field(ge=0, le=256)] | None = None
    resize_mode: Annotated[int, Field(ge=0, le=3)] | None = None
