"""The GPUs that engines may use, and what of the model would lie on them."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from velesio_worker.cli.doctor.findings import MEBIBYTE, CheckReport, mebibytes, parted
from velesio_worker.engines.gpu import Gpus, free_memory
from velesio_worker.engines.llama.sizing import Sizing, sized
from velesio_worker.engines.models.gguf import GgufError, GgufInfo, read_gguf
from velesio_worker.engines.webui.command import has_webui

_NO_GPU: Final = "-1"
"""How one says in CUDA_VISIBLE_DEVICES that no GPU is to be used."""

_FACTS: Final = ("index", "uuid", "name", "total", "free")


def check_gpu(report: CheckReport) -> None:
    """Look at the GPUs' memory, and at what GPU_SIZING makes of it."""
    settings = report.settings
    gpus = Gpus(settings.cuda_visible_devices)
    read = gpus.read()
    if not read:
        _tell_none(gpus.trouble or "NVML tells of no GPU", report)
        return
    shown = ", ".join(f"{gpu.index} {gpu.name}: {mebibytes(gpu.free)} of {mebibytes(gpu.total)} free" for gpu in read)
    facts = [{name: getattr(gpu, name) for name in _FACTS} for gpu in read]
    report.ok(f"{shown}; driver {gpus.driver}", driver=gpus.driver, gpus=facts)
    if settings.run_llm and settings.llama_server_url is None and settings.startup_command is None:
        _tell_sizing(free_memory(read) or 0, report)


def _tell_none(trouble: str, report: CheckReport) -> None:
    settings = report.settings
    text = settings.run_llm and settings.llama_server_url is None
    images = settings.run_sd and settings.sd_server_url is None and has_webui(settings)
    on_cpu = " and ".join(["text runs on the CPU"] * text + ["images are made on the CPU"] * images)
    if not on_cpu:
        server = "the llama-server at LLAMA_SERVER_URL has its own"
        why = server if settings.run_llm else "RUN_LLM=false, and no WebUI is started"
        report.ok(f"none is needed here: {why}", gpus=[])
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


def _tell_sizing(free: int, report: CheckReport) -> None:
    settings = report.settings
    sizing = sized(settings.gpu_sizing, free / MEBIBYTE, settings.gpu_layers, settings.context_size)
    facts = {"gpu_sizing": settings.gpu_sizing.value, "layers": sizing.layers, "context": sizing.context}
    if sizing.layers is None:
        report.ok("GPU_SIZING=fit: llama-server puts as many layers on the GPU as fit", **facts)
        return
    gets = f"{sizing.layers} layers on the GPU and {sizing.context} tokens of context a job"
    if sizing == Sizing(settings.gpu_layers, settings.context_size):
        report.ok(f"llama-server gets {gets}", **facts)
    else:
        report.warning(
            f"with {mebibytes(free)} free GPU_SIZING={settings.gpu_sizing} gives llama-server {gets}, not "
            f"GPU_LAYERS={settings.gpu_layers} and CONTEXT_SIZE={settings.context_size}",
            "free memory (nvidia-smi shows who holds it), or GPU_SIZING=fit or off",
            **facts,
        )
    with suppress(GgufError, OSError):  # the model's own check tells
        _compare(read_gguf(settings.model_path), sizing.layers, free, report)


def _compare(info: GgufInfo, layers: int, free: int, report: CheckReport) -> None:
    """Compare what of the model would lie on the GPU with the memory that is free, which has to hold more.

    Layers, and the output behind them, are taken to be of one size.
    """
    share = min(1.0, layers / (info.layers + 1)) if info.layers else float(layers > 0)
    needed = round(info.size * share)
    if needed > free:
        report.warning(
            f"of the model's {mebibytes(info.size)} about {mebibytes(needed)} would lie on the GPU, which has "
            f"{mebibytes(free)} free: llama-server runs out of memory, and is started anew with fewer layers",
            "lower GPU_LAYERS, GPU_SIZING=fit, take a smaller model, or free memory (nvidia-smi shows who holds it)",
            needed=needed,
            free=free,
        )
