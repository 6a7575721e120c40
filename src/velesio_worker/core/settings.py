"""Every environment variable of the worker, in one model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from velesio_worker.core.job_types import types_named
from velesio_worker.core.model_source import parse_model_source
from velesio_worker.core.redis_url import with_authorities
from velesio_worker.core.setting_types import (
    LARGEST,
    MEBIBYTE,
    QUEUE_NAME,
    REDIS_URL,
    AuthoritiesFile,
    Command,
    Count,
    EnvironmentSettings,
    HttpUrl,
    LogFormat,
    LogLevel,
    LogShape,
    Port,
    QueueName,
    RedisAddress,
    Seconds,
    SecondsOrNever,
    WholeSeconds,
    lower,
    number_of_bytes,
    read_by,
    settings_of,
    words_of,
)


class GpuSizing(StrEnum):
    """Who decides how much of the GPU's memory llama-server takes."""

    CAPS = "caps"
    FIT = "fit"
    OFF = "off"


class GpuSharing(StrEnum):
    """Whether engines may hold a GPU's memory at the same time."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


class CacheMode(StrEnum):
    """Which answers are kept in the prompt cache."""

    OFF = "off"
    DETERMINISTIC = "deterministic"
    ALL = "all"


def _llama_arguments(value: str) -> None:
    for word in words_of(value):
        if word.partition("=")[0] in {"-m", "--model", "--host", "--port"}:
            raise ValueError("arguments other than --model, --host and --port: see MODEL_PATH and LLAMA_PORT")


def _api_key(value: str) -> None:
    if not (value.isascii() and value.isprintable()):
        raise ValueError("printable ASCII characters, without a line break: it goes into an HTTP header")


class Settings(EnvironmentSettings):
    """The worker's settings; each field is an environment variable of the same name in capitals."""

    redis_url: RedisAddress = REDIS_URL
    queue_name: QueueName = QUEUE_NAME
    job_types: Annotated[str, read_by(types_named)] = Field(
        default="all",
        description="The types of job that this worker takes, with commas between them; another one is bad_job. An "
        "open queue is better without load_model, switch_model and unload_models.",
    )
    run_llm: bool = Field(default=True, description="Run text jobs.")
    run_sd: bool = Field(default=True, description="Run image jobs, if there is a WebUI to start or to use.")

    model_path: Path = Field(default=Path("./data/models/text/model.gguf"), description="The GGUF model of text jobs.")
    gpu_layers: Annotated[int, Field(ge=0, le=LARGEST)] = Field(
        default=35, description="Layers that llama-server puts on the GPU."
    )
    context_size: Annotated[int, Field(ge=64, le=LARGEST)] = Field(
        default=4096, description="Context of one text job, prompt and answer together, in tokens."
    )
    cuda_visible_devices: str = Field(default="0", description="The GPUs that engines see, as CUDA reads it.")
    llm_concurrency: Count | None = Field(
        default=None,
        description="Text jobs at a time. Default: the engine's slots, which are 4 where the worker starts it.",
    )
    startup_command: Command | None = Field(
        default=None, description="The command that starts llama-server, instead of the worker's own (no shell)."
    )
    llama_server_url: HttpUrl | None = Field(
        default=None, description="Use this llama-server, which already runs, instead of starting one."
    )
    llama_api_key: Annotated[str, read_by(_api_key)] | None = Field(
        default=None, description="The key that llama-server wants (--api-key); it is sent with every request."
    )
    llama_open: bool = Field(
        default=False,
        description="Let anybody on this host use the worker's own llama-server. Default: it wants LLAMA_API_KEY, "
        "or else a key that is drawn at each start.",
    )
    llama_port: Port = Field(
        default=1337, description="The port on 127.0.0.1 that the worker's llama-server listens on."
    )
    llama_args: Annotated[str, read_by(_llama_arguments)] | None = Field(
        default=None, description="Further arguments for the worker's own llama-server, such as --lora or --mmproj."
    )
    model_url: Annotated[str, read_by(parse_model_source)] | None = Field(
        default=None,
        description="Where to get MODEL_PATH from if it is missing: a URL or hf:owner/repo/file, #sha256=… behind it. "
        "HF_TOKEN is used for the hub.",
    )
    idle_unload_seconds: SecondsOrNever = Field(
        default=300, description="Stop an engine that had no job for so many seconds; the next job starts it. 0: never."
    )
    probe_seconds: SecondsOrNever = Field(
        default=120, description="Have an idle engine make one token after so many seconds without a sign. 0: never."
    )
    gpu_sizing: Annotated[GpuSizing, BeforeValidator(lower)] = Field(
        default=GpuSizing.CAPS,
        description="caps (fewer layers and context where little GPU memory is free), fit (llama-server's own) or off.",
    )
    gpu_sharing: Annotated[GpuSharing, BeforeValidator(lower)] = Field(
        default=GpuSharing.SHARED,
        description="shared, or exclusive: text and image engine take turns on the GPU, which holds one at a time.",
    )
    max_logprobs: Annotated[int, Field(ge=0)] = Field(
        default=100, description="The most tokens that a job may have probabilities for at each place of its answer."
    )
    cache_mode: Annotated[CacheMode, BeforeValidator(lower)] = Field(
        default=CacheMode.DETERMINISTIC,
        description="Answers to keep and give again: off, deterministic (temperature 0 or a seed given) or all.",
    )

    sd_model_path: Path = Field(
        default=Path("./data/models/image/"),
        description="The folder of image models (--ckpt-dir of the WebUI in data/sd).",
    )
    sd_startup_command: Command | None = Field(
        default=None,
        description="The command that starts the Stable Diffusion WebUI (no shell), in data/sd if launch.py is there. "
        "Default: that launch.py.",
    )
    sd_args: Command | None = Field(
        default=None, description="Further arguments for the WebUI in data/sd, such as --medvram or --xformers."
    )
    sd_server_url: HttpUrl | None = Field(
        default=None,
        description="Use this WebUI, which already runs, instead of starting one; "
        "http://user:password@host:port with --api-auth.",
    )
    sd_port: Port = Field(default=7860, description="The port on 127.0.0.1 that the worker's WebUI listens on.")
    sd_start_seconds: Seconds = Field(
        default=120, description="How long a WebUI that starts may show no progress before it is given up, in seconds."
    )
    sd_concurrency: Count = Field(
        default=1, description="Image jobs that the worker holds at a time; its WebUI gets one request at a time."
    )
    sd_max_batch: Count = Field(
        default=4,
        description="The largest batch_size; so many waiting txt2img jobs that differ in nothing are run at once.",
    )
    sd_max_images: Count = Field(
        default=4,
        description="The most images of one job: batch_size times n_iter. "
        "Large answers hold up the worker for some milliseconds a megabyte.",
    )
    sd_max_pixels: Count = Field(
        default=2048 * 2048,
        description="The most pixels of an image, width times height: of one made (after a hires fix) or one sent.",
    )
    sd_override_settings: str = Field(
        default="CLIP_stop_at_last_layers,sd_vae",
        description="WebUI settings that a job's override_settings may hold, with commas between them.",
    )
    sd_scripts: str = Field(
        default="", description="WebUI scripts that jobs may run, with commas between them: scripts run code."
    )
    previews: bool = Field(default=True, description="Give progress entries a small picture of the image so far.")
    result_store: str | None = Field(
        default=None, description="Where large images go instead of into the result: a folder, or s3://bucket/prefix."
    )
    result_store_url: HttpUrl | None = Field(
        default=None, description="Where readers find RESULT_STORE. Default: file:// or signed URLs."
    )
    result_inline_bytes: Annotated[int, Field(ge=0, le=LARGEST)] = Field(
        default=MEBIBYTE, description="Up to so many bytes of base64, images stay in the result with RESULT_STORE."
    )

    engine_env_keep: str = Field(
        default="",
        description="Environment variables that engines get although they look like secrets, such as HF_TOKEN, with "
        "commas between them.",
    )

    worker_timeout: Seconds = Field(default=600, description="The longest that a job may run, in seconds.")
    start_seconds: Seconds = Field(
        default=60, description="How long an engine that starts may show no progress before it is given up, in seconds."
    )
    stall_seconds: Seconds = Field(
        default=120,
        description="How long an engine may send nothing for a running job before it is replaced, in seconds.",
    )
    engine_memory_limit: Annotated[int, Field(ge=0), BeforeValidator(number_of_bytes)] = Field(
        default=0,
        description="The most of the host's memory that an engine of the worker's own may take, such as 24GiB; one "
        "that takes more is replaced. 0: 90 % of the host's or the container's, less 512 MiB.",
    )
    drain_seconds: SecondsOrNever = Field(
        default=30, description="How long running jobs may go on after SIGTERM before they are handed back, in seconds."
    )
    lease_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=15, description="How long a worker counts as alive after its last heartbeat, in seconds."
    )
    result_ttl: WholeSeconds = Field(default=3600, description="How long a result is kept, in seconds.")
    stream_ttl: WholeSeconds = Field(
        default=3600, description="How long a stream is kept after its last entry, in seconds."
    )
    max_job_bytes: Count = Field(default=32 * MEBIBYTE, description="The largest job that is accepted, in bytes.")
    max_result_bytes: Count = Field(
        default=256 * MEBIBYTE, description="The largest result that is stored, in bytes; Redis takes 512 MiB at most."
    )

    ca_file: AuthoritiesFile | None = Field(
        default=None,
        description="A file of PEM certificates of authorities of your own, for https:// engines and rediss://; "
        "ssl_ca_certs in REDIS_URL goes before it.",
    )

    log_level: LogLevel = "INFO"
    log_prompts: bool = Field(default=False, description="Have prompts and answers in the log, for debugging.")
    health_host: str = Field(
        default="127.0.0.1", description="The address that health and metrics are served on; 0.0.0.0 for all networks."
    )
    health_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=9090, description="The port of /livez, /readyz, /health and /metrics; 0: none is served."
    )
    log_format: LogShape = LogFormat.CONSOLE


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        SettingsError: one line per mistake, each with the variable, its value and what is allowed.
    """
    settings = settings_of(Settings)
    if settings.ca_file is None:
        return settings
    return settings.model_copy(update={"redis_url": with_authorities(settings.redis_url, settings.ca_file)})
