"""The bodies of ``txt2img`` and ``img2img``, with the names that AUTOMATIC1111 1.10 gives their fields."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from velesio_worker.gateway.bodies import Body, ListOf

_Settings = dict[str, Any]


class ImageRequest(Body):
    """What both bodies have. A field that is null counts as not given, and one that nobody knows is left out.

    Attributes:
        sampler_index: another name of ``sampler_name``, from the WebUI's first days.
        override_settings: settings for this image alone; ``sd_model_checkpoint`` among them names the model.
        send_images: whether the answer has the images.
        save_images: whether the WebUI keeps them as well: it does not.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    prompt: str = ""
    negative_prompt: str = ""
    styles: ListOf[str] | None = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int | None = None
    seed_resize_from_w: int | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    eta: float | None = None
    denoising_strength: float | None = None
    s_min_uncond: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = None
    s_tmin: float | None = None
    s_noise: float | None = None
    override_settings: _Settings | None = None
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool = False
    firstpass_image: str | None = None
    comments: dict[str, Any] | None = None
    force_task_id: str | None = None
    script_name: str | None = None
    script_args: list[Any] = Field(default_factory=list[Any])
    send_images: bool = True
    save_images: bool = False
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict[str, Any])
    infotext: str | None = None
    enable_hr: bool = False
    hr_scale: float | None = None
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""


class Txt2ImgRequest(ImageRequest):
    """The body of ``POST /sdapi/v1/txt2img``."""

    firstphase_width: int = 0
    firstphase_height: int = 0


class Img2ImgRequest(ImageRequest):
    """The body of ``POST /sdapi/v1/img2img``.

    Attributes:
        init_images: images as base64, bare or as data URIs; nothing is fetched.
        include_init_images: whether ``parameters`` of the answer repeats them.
    """

    init_images: ListOf[str] = Field(default_factory=list[str])
    resize_mode: int = 0
    image_cfg_scale: float | None = None
    mask: str | None = None
    mask_blur_x: int | None = None
    mask_blur_y: int | None = None
    mask_blur: int | None = None
    mask_round: bool = True
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float | None = None
    latent_mask: str | None = None
    include_init_images: bool = False
