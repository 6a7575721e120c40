"""The GPUs that engines may use, and what of the model would lie on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from velesio_worker.cli.doctor.findings import MEBIBYTE, CheckReport, Subject, mebibytes, parted
from velesio_worker.core.settings import Settings
from velesio_worker.core.threads import aside
from velesio_worker.engines.gpu import Gpu, Gpus, free_memory
from velesio_worker.engines.llama.command import model_of
from velesio_worker.engines.llama.sizing import Sizing, sized
from velesio_worker.engines.models.gguf import GgufError, GgufInfo, read_gguf
from velesio_worker.engines.webui.command import has_webui

_NO_GPU: Final = "-1"
"""How one says in CUDA_VISIBLE_DEVICES that no GPU is to be used."""


async def check_gpu(subject: Subject, report: CheckReport) -> None:
    """Look at the GPUs' memory, and at what GPU_SIZING makes of it."""
    settings = subject.settings
    gpus = Gpus(settings.cuda_visible_devices)
    read = await aside(gpus.read)
    if not read:
        images = settings.run_sd and settings.sd_server_url is None and await aside(lambda: has_webui(settings))
        _tell_none(settings, gpus.trouble or "NVML tells of no GPU", report, images=images)
        return
    shown = ", ".join(f"{gpu.index} {gpu.name}: {mebibytes(gpu.free)} of {mebibytes(gpu.total)} free" for gpu in read)
    report.ok(f"{shown}; driver {gpus.driver}", driver=gpus.driver, gpus=[_facts(gpu) for gpu in read])
    if settings.run_llm and settings.llama_server_url is None and settings.startup_command is None:
        await _tell_sizing(settings, read, report)


def _tell_none(settings: Settings, trouble: str, report: CheckReport, *, images: bool) -> None:
    text = settings.run_llm and settings.llama_server_url is None
    on_cpu = " and ".join(["text runs on the CPU"] * text + ["images are made on the CPU"] * images)
    if not on_cpu:
        report.ok(f"none is needed here: {_elsewhere(settings)}", gpus=[])
    elif settings.cuda_visible_devices.strip() == _NO_GPU:
        report.ok(f"CUDA_VISIBLE_DEVICES={_NO_GPU}: no GPU is used, {on_cpu}", gpus=[])
    elif trouble.startswith("CUDA_VISIBLE_DEVICES="):
        message, remedy = parted(trouble, "name one of those that nvidia-smi -L lists")
        report.error(
            message, f"{remedy} (nvidia-smi -L lists them), or CUDA_VISIBLE_DEVICES={_NO_GPU} for none", gpus=[]
        )
    elif settings.gpu_layers == 0 and not images:
        report.ok("GPU_LAYERS=0: text runs on the CPU", gpus=[])
    else:
        without = f"CUDA_VISIBLE_DEVICES={_NO_GPU}" if images else "GPU_LAYERS=0"
        report.warning(
            f"{on_cpu}: {trouble}",
            f"for a GPU, nvidia-smi has to work here (in Docker: docker run --gpus all); without one, {without}",
            gpus=[],
        )


def _elsewhere(settings: Settings) -> str:
    if not settings.run_llm:
        return "RUN_LLM=false, and no WebUI is started"
    return "the llama-server at LLAMA_SERVER_URL has its own"


def _facts(gpu: Gpu) -> dict[str, Any]:
    return {"index": gpu.index, "uuid": gpu.uuid, "name": gpu.name, "total": gpu.total, "free": gpu.free}


async def _tell_sizing(settings: Settings, read: Sequence[Gpu], report: CheckReport) -> None:
    free = free_memory(read) or 0
    configured = Sizing(settings.gpu_layers, settings.context_size)
    sizing = sized(settings.gpu_sizing, free / MEBIBYTE, *(configured.layers or 0, configured.context))
    facts = {"gpu_sizing": settings.gpu_sizing.value, "layers": sizing.layers, "context": sizing.context}
    if sizing.layers is None:
        report.ok("GPU_SIZING=fit: llama-server puts as many layers on the GPU as fit", **facts)
        return
    gets = f"{sizing.layers} layers on the GPU and {sizing.context} tokens of context a job"
    if sizing == configured:
        report.ok(f"llama-server gets {gets}", **facts)
    else:
        report.warning(
            f"with {mebibytes(free)} free GPU_SIZING={settings.gpu_sizing} gives llama-server {gets}, not "
            f"GPU_LAYERS={settings.gpu_layers} and CONTEXT_SIZE={settings.context_size}",
            "free memory (nvidia-smi shows who holds it), or GPU_SIZING=fit or off",
            **facts,
        )
    await _compare(settings, sizing.layers, free, report)


async def _compare(settings: Settings, layers: int, free: int, report: CheckReport) -> None:
    """Compare what of the model's file would lie on the GPU with the memory that is free, which has to hold more."""
    path, info = model_of(settings), None
    if path is not None:
        with suppress(GgufError, OSError):  # the model's own check tells
            info = await aside(partial(read_gguf, path))
    if info is None:
        return
    needed = _needed(info, layers)
    if needed > free:
        report.warning(
            f"of the model's {mebibytes(info.size)} about {mebibytes(needed)} would lie on the GPU, which has "
            f"{mebibytes(free)} free: llama-server runs out of memory, and is started anew with fewer layers",
            "lower GPU_LAYERS, GPU_SIZING=fit, take a smaller model, or free memory (nvidia-smi shows who holds it)",
            needed=needed,
            free=free,
        )


def _needed(info: GgufInfo, layers: int) -> int:
    """How many bytes of a model lie on the GPU: layers, and the output behind them, are taken to be of one size."""
    if not info.layers:
        return info.size if layers else 0
    return round(info.size * min(1.0, layers / (info.layers + 1)))
