"""What the double knows by name: samplers, schedulers, options, scripts, as AUTOMATIC1111 1.10.1 lists them."""

from __future__ import annotations

from typing import Any, Final

VERSION: Final = "1.10.1"
FALLBACK_SAMPLER: Final = "DPM++ 2M"
"""What an unknown sampler silently becomes."""

_KARRAS: Final = {"scheduler": "karras"}
_EXPONENTIAL: Final = {"scheduler": "exponential"}
_SECOND: Final = {"second_order": "True"}
_BROWNIAN: Final = {"brownian_noise": "True"}
_DISCARD: Final = {"discard_next_to_last_sigma": "True"}
_ENSD: Final = {"uses_ensd": "True"}

_SAMPLERS: Final[list[tuple[str, list[str], dict[str, str]]]] = [
    ("DPM++ 2M", ["k_dpmpp_2m"], _KARRAS),
    ("DPM++ SDE", ["k_dpmpp_sde"], _KARRAS | _SECOND | _BROWNIAN),
    ("DPM++ 2M SDE", ["k_dpmpp_2m_sde"], _EXPONENTIAL | _BROWNIAN),
    ("DPM++ 2M SDE Heun", ["k_dpmpp_2m_sde_heun"], _EXPONENTIAL | _BROWNIAN | {"solver_type": "heun"}),
    ("DPM++ 2S a", ["k_dpmpp_2s_a"], _KARRAS | _ENSD | _SECOND),
    ("DPM++ 3M SDE", ["k_dpmpp_3m_sde"], _EXPONENTIAL | _DISCARD | _BROWNIAN),
    ("Euler a", ["k_euler_a", "k_euler_ancestral"], _ENSD),
    ("Euler", ["k_euler"], {}),
    ("LMS", ["k_lms"], {}),
    ("Heun", ["k_heun"], _SECOND),
    ("DPM2", ["k_dpm_2"], _KARRAS | _DISCARD | _SECOND),
    ("DPM2 a", ["k_dpm_2_a"], _KARRAS | _DISCARD | _ENSD | _SECOND),
    ("DPM fast", ["k_dpm_fast"], _ENSD),
    ("DPM adaptive", ["k_dpm_ad"], _ENSD),
    ("Restart", ["restart"], _KARRAS | _SECOND),
    ("DDIM", ["ddim"], {}),
    ("DDIM CFG++", ["ddim_cfgpp"], {}),
    ("PLMS", ["plms"], {}),
    ("UniPC", ["unipc"], {}),
    ("LCM", ["k_lcm"], {}),
]
SAMPLERS: Final[list[dict[str, Any]]] = [
    {"name": name, "aliases": aliases, "options": options} for name, aliases, options in _SAMPLERS
]

_SCHEDULERS: Final[list[tuple[str, str, list[str] | None, float, bool]]] = [
    ("automatic", "Automatic", None, -1.0, False),
    ("uniform", "Uniform", None, -1.0, True),
    ("karras", "Karras", None, 7.0, False),
    ("exponential", "Exponential", None, -1.0, False),
    ("polyexponential", "Polyexponential", None, 1.0, False),
    ("sgm_uniform", "SGM Uniform", ["SGMUniform"], -1.0, True),
    ("kl_optimal", "KL Optimal", None, -1.0, False),
    ("align_your_steps", "Align Your Steps", None, -1.0, False),
    ("simple", "Simple", None, -1.0, True),
    ("normal", "Normal", None, -1.0, True),
    ("ddim", "DDIM", None, -1.0, True),
    ("beta", "Beta", None, -1.0, True),
]
SCHEDULERS: Final[list[dict[str, Any]]] = [
    {"name": name, "label": label, "aliases": aliases, "default_rho": rho, "need_inner_model": inner}
    for name, label, aliases, rho, inner in _SCHEDULERS
]

UPSCALERS: Final[list[dict[str, Any]]] = [
    {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}
    for name in ("None", "Lanczos", "Nearest")
]
LATENT_UPSCALE_MODES: Final[list[dict[str, str]]] = [
    {"name": "Latent" + kind}
    for kind in ("", " (antialiased)", " (bicubic)", " (bicubic antialiased)", " (nearest)", " (nearest-exact)")
]

_BOTH: Final = ["prompt matrix", "prompts from file or textbox"]
_ALWAYS: Final = ["refiner", "sampler", "seed"]
SCRIPTS: Final[dict[str, list[str]]] = {
    "txt2img": [*_BOTH, "x/y/z plot", "extra options", "Hypertile", *_ALWAYS],
    "img2img": [
        *("img2img alternative test", "loopback", "outpainting mk2", "poor man's outpainting"),
        *_BOTH,
        *("sd upscale", "x/y/z plot", "extra options", "Hypertile", "soft inpainting"),
        *_ALWAYS,
    ],
}

OPTIONS: Final[dict[str, Any]] = {
    "samples_save": True,
    "samples_format": "png",
    "grid_save": True,
    "grid_format": "png",
    "grid_only_if_multiple": True,
    "n_rows": -1,
    "jpeg_quality": 80,
    "webp_lossless": False,
    "face_restoration": False,
    "face_restoration_model": "CodeFormer",
    "code_former_weight": 0.5,
    "api_enable_requests": True,
    "api_forbid_local_requests": True,
    "sd_model_checkpoint": None,
    "sd_checkpoints_limit": 1,
    "sd_checkpoints_keep_in_cpu": True,
    "sd_checkpoint_cache": 0,
    "sd_unet": "Automatic",
    "emphasis": "Original",
    "enable_batch_seeds": True,
    "comma_padding_backtrack": 20,
    "CLIP_stop_at_last_layers": 1,
    "cross_attention_optimization": "Automatic",
    "upcast_attn": False,
    "randn_source": "GPU",
    "tiling": False,
    "sdxl_crop_top": 0,
    "sdxl_crop_left": 0,
    "sd_vae": "Automatic",
    "sd_vae_overrides_per_model_preferences": True,
    "auto_vae_precision": True,
    "sd_vae_encode_method": "Full",
    "sd_vae_decode_method": "Full",
    "inpainting_mask_weight": 1.0,
    "initial_noise_multiplier": 1.0,
    "img2img_extra_noise": 0.0,
    "img2img_color_correction": False,
    "img2img_fix_steps": False,
    "img2img_background_color": "#ffffff",
    "return_mask": False,
    "return_mask_composite": False,
    "overlay_inpaint": True,
    "s_min_uncond": 0.0,
    "token_merging_ratio": 0.0,
    "token_merging_ratio_img2img": 0.0,
    "token_merging_ratio_hr": 0.0,
    "pad_cond_uncond": False,
    "fp8_storage": "Disable",
    "cache_fp16_weight": False,
    "no_dpmpp_sde_batch_determinism": False,
    "sd_lora": "None",
    "return_grid": True,
    "do_not_show_images": False,
    "interrupt_after_current": True,
    "enable_pnginfo": True,
    "add_model_name_to_info": True,
    "add_model_hash_to_info": True,
    "live_previews_enable": True,
    "live_previews_image_format": "png",
    "show_progress_every_n_steps": 10,
    "show_progress_type": "Approx NN",
    "live_preview_content": "Prompt",
    "live_preview_refresh_period": 1000,
    "live_preview_fast_interrupt": False,
    "hide_samplers": [],
    "eta_ddim": 0.0,
    "eta_ancestral": 1.0,
    "eta_noise_seed_delta": 0,
    "s_churn": 0.0,
    "s_tmin": 0.0,
    "s_tmax": 0.0,
    "s_noise": 1.0,
    "always_discard_next_to_last_sigma": False,
    "sgm_noise_multiplier": False,
    "enable_prompt_comments": True,
    "sd_checkpoint_hash": None,
}
"""The options a worker might touch, with their defaults; the real program has some 300. Any other is a KeyError."""


def find_sampler(name: str | None) -> dict[str, Any]:
    """The sampler of that name or alias; the fallback where there is none."""
    wanted = (name or "Euler").lower()
    for sampler in SAMPLERS:
        if wanted in (sampler["name"].lower(), *sampler["aliases"]):
            return sampler
    return next(one for one in SAMPLERS if one["name"] == FALLBACK_SAMPLER)


def corrected(sampler: dict[str, Any], scheduler: str | None) -> tuple[str, str]:
    """Sampler and scheduler as the real program calls them: it warns in its log of any other words for them."""
    label = next((one["label"] for one in SCHEDULERS if scheduler in {one["name"], one["label"]}), "Automatic")
    return sampler["name"], label


def schedule(sampler: dict[str, Any], scheduler: str | None) -> str | None:
    """The label of the schedule that is used, where it is not the sampler's own; unknown ones are ignored."""
    for wanted in (scheduler, sampler["options"].get("scheduler")):
        for known in SCHEDULERS:
            named = wanted in (known["name"], known["label"], *(known["aliases"] or ()))
            if named and known["name"] != "automatic":
                return str(known["label"])
    return None
