"""llama-server's flags: their names, how their values are read, and what they set in the wheel's ``CommonParams``.

Names and meanings are those of llama.cpp's ``common/arg.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from velesio_worker.engines import embedded_params as params
from velesio_worker.engines import embedded_values as of
from velesio_worker.engines.embedded_params import Put
from velesio_worker.engines.embedded_values import Read, number, one_of, whole, within


@dataclass(frozen=True, slots=True)
class Flag:
    """One of llama-server's flags.

    Attributes:
        names: what it is called, divided by spaces.
        read: reads its value; None: a switch, which takes none.
        target: the field that it sets (dotted; several are divided by spaces; ``not`` before it: to the opposite;
            empty: it does nothing), or what sets it.
        off: what a switch is called that turns it off, divided by spaces.
    """

    names: str
    read: Read | None
    target: str | Put
    off: str = ""


HELP: Final = Flag("-h --help --usage", None, "")
VERSION: Final = Flag("--version", None, "")
MODEL: Final = Flag("-m --model", str, "model.path")
THREADS: Final = Flag("-t --threads", of.threads, "cpuparams.n_threads")

_CACHE: Final = one_of("ggml_type", "f32 f16 bf16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
_LOAD: Final = {"dio": "direct_io", "mmap+mlock": "mmap_mlock"}
_DRAFT: Final = "speculative.draft"
_NGRAM: Final = within(1, 1024)
_SPECULATION: Final = (
    "none draft-simple draft-eagle3 draft-mtp draft-dflash draft-dspark "
    "ngram-simple ngram-map-k ngram-map-k4v ngram-mod ngram-cache"
)

FLAGS: Final = (
    HELP,
    VERSION,
    MODEL,
    # The server
    Flag("--host", of.hosts, "hostnames"),
    Flag("--port", whole, "port"),
    Flag("--reuse-port", None, "reuse_port"),
    Flag("-a --alias", of.listed, "model_alias"),
    Flag("--tags", of.listed, "model_tags"),
    Flag("--api-key", of.listed, params.put_api_keys),
    Flag("--api-key-file", of.keys_in, params.put_api_keys),
    Flag("--api-prefix", str, "api_prefix"),
    Flag("--ssl-key-file", str, "ssl_file_key"),
    Flag("--ssl-cert-file", str, "ssl_file_cert"),
    Flag("--cors-origins", str, "cors_origins"),
    Flag("--cors-methods", str, "cors_methods"),
    Flag("--cors-headers", str, "cors_headers"),
    Flag("--cors-credentials", None, "cors_credentials", "--no-cors-credentials"),
    Flag("--path", str, "public_path"),
    Flag("--ui --webui", None, "ui", "--no-ui --no-webui"),
    Flag("--ui-config --webui-config", str, "ui_config_json"),
    Flag("--ui-config-file --webui-config-file", of.content, "ui_config_json"),
    Flag("-to --timeout", whole, "timeout_read timeout_write"),
    Flag("--threads-http", whole, "n_threads_http"),
    Flag("--sse-ping-interval", whole, "sse_ping_interval"),
    Flag("--sleep-idle-seconds", within(-1), "sleep_idle_seconds"),
    Flag("--metrics", None, "endpoint_metrics"),
    Flag("--props", None, "endpoint_props"),
    Flag("--slots", None, "endpoint_slots", "--no-slots"),
    Flag("--slot-save-path", of.folder, "slot_save_path"),
    Flag("--media-path", of.folder, "media_path"),
    Flag("--embedding --embeddings", None, "embedding"),
    Flag("--embd-normalize", whole, "embd_normalize"),
    Flag("--pooling", one_of("llama_pooling_type", "none mean cls last rank"), "pooling_type"),
    Flag("--rerank --reranking", None, params.put_reranking),
    # Slots, context and cache
    Flag("-np --parallel", of.slots, "n_parallel"),
    Flag("-cb --cont-batching", None, "cont_batching", "-nocb --no-cont-batching"),
    Flag("-c --ctx-size", whole, params.put_context),
    Flag("-b --batch-size", whole, "n_batch"),
    Flag("-ub --ubatch-size", whole, "n_ubatch"),
    Flag("--keep", whole, "n_keep"),
    Flag("--context-shift", None, "ctx_shift", "--no-context-shift"),
    Flag("--swa-full", None, "swa_full"),
    Flag("-kvu --kv-unified", None, "kv_unified", "-no-kvu --no-kv-unified"),
    Flag("--kv-unified-per-slot", whole, "kv_unified_per_slot"),
    Flag("-kvo --kv-offload", None, "not no_kv_offload", "-nkvo --no-kv-offload"),
    Flag("-ctk --cache-type-k", _CACHE, "cache_type_k"),
    Flag("-ctv --cache-type-v", _CACHE, "cache_type_v"),
    Flag("-dt --defrag-thold", str, ""),
    Flag("-ctxcp --ctx-checkpoints --swa-checkpoints", whole, "n_ctx_checkpoints"),
    Flag("-cms --checkpoint-min-step", within(0), "checkpoint_min_step"),
    Flag("-cram --cache-ram", whole, "cache_ram_mib"),
    Flag("--cache-idle-slots", None, "cache_idle_slots", "--no-cache-idle-slots"),
    Flag("--cache-prompt", None, "cache_prompt", "--no-cache-prompt"),
    Flag("--cache-reuse", whole, "n_cache_reuse"),
    Flag("-sps --slot-prompt-similarity", number, "slot_prompt_similarity"),
    # The machine
    THREADS,
    Flag("-tb --threads-batch", of.threads, "cpuparams_batch.n_threads"),
    Flag("--prio", within(-1, 3), "cpuparams.priority"),
    Flag("--prio-batch", within(0, 3), "cpuparams_batch.priority"),
    Flag("--poll", within(0), "cpuparams.poll"),
    Flag("--poll-batch", within(0), "cpuparams_batch.poll"),
    Flag("--cpu-strict", whole, "cpuparams.strict_cpu"),
    Flag("--cpu-strict-batch", whole, "cpuparams_batch.strict_cpu"),
    Flag("--numa", one_of("ggml_numa_strategy", "distribute isolate numactl"), "numa"),
    Flag("-ngl --gpu-layers --n-gpu-layers", of.layers, "n_gpu_layers"),
    Flag("-sm --split-mode", one_of("llama_split_mode", "none layer row tensor"), "split_mode"),
    Flag("-ts --tensor-split", of.parts, params.put_tensor_split),
    Flag("-mg --main-gpu", whole, "main_gpu"),
    Flag("-fa --flash-attn", of.flash_attention, "flash_attn_type"),
    Flag("-fit --fit", of.on_off, "fit_params"),
    Flag("-fitt --fit-target", of.parts, params.put_fit_target),
    Flag("-fitc --fit-ctx", whole, "fit_params_min_ctx"),
    Flag("-lm --load-mode", one_of("llama_load_mode", "auto none mmap mlock mmap+mlock dio", _LOAD), "load_mode"),
    Flag("-lzm --lazy-mode", one_of("llama_lazy_mode", "on auto off"), "lazy_mode"),
    Flag("--repack", None, "not no_extra_bufts", "-nr --no-repack"),
    Flag("--no-host", None, "no_host"),
    Flag("--op-offload", None, "not no_op_offload", "--no-op-offload"),
    Flag("--check-tensors", None, "check_tensors"),
    Flag("--warmup", None, "warmup", "--no-warmup"),
    Flag("--perf", None, "not no_perf sampling.no_perf", "--no-perf"),
    Flag("--offline", None, "offline"),
    Flag("-v --verbose --log-verbose", None, params.put_verbose),
    Flag("-lv --verbosity --log-verbosity", whole, "verbosity"),
    Flag("--log-prefix", None, ""),
    Flag("--log-timestamps", None, ""),
    # The model
    Flag("--lora", of.adapters, params.put_adapters),
    Flag("--lora-scaled", of.scaled_adapters, params.put_adapters),
    Flag("--lora-init-without-apply", None, "lora_init_without_apply"),
    Flag("--rope-scaling", one_of("llama_rope_scaling_type", "none linear yarn"), "rope_scaling_type"),
    Flag("--rope-scale", of.positive, params.put_rope_scale),
    Flag("--rope-freq-base", number, "rope_freq_base"),
    Flag("--rope-freq-scale", number, "rope_freq_scale"),
    Flag("--yarn-orig-ctx", whole, "yarn_orig_ctx"),
    Flag("--yarn-ext-factor", number, "yarn_ext_factor"),
    Flag("--yarn-attn-factor", number, "yarn_attn_factor"),
    Flag("--yarn-beta-slow", number, "yarn_beta_slow"),
    Flag("--yarn-beta-fast", number, "yarn_beta_fast"),
    Flag("-mm --mmproj", str, "mmproj.path"),
    Flag("--mmproj-auto", None, "not no_mmproj", "--no-mmproj --no-mmproj-auto"),
    Flag("--mmproj-offload", None, "mmproj_use_gpu", "--no-mmproj-offload"),
    Flag("-mmdev --mmproj-device", str, "mmproj_device"),
    Flag("--image-min-tokens", whole, "image_min_tokens"),
    Flag("--image-max-tokens", whole, "image_max_tokens"),
    Flag("--mtmd-batch-max-tokens", whole, "mtmd_batch_max_tokens"),
    Flag("--video-fps", number, "video_fps"),
    Flag("--video-timestamp-interval", whole, "video_timestamp_interval_ms"),
    Flag("--video-ffmpeg-dir", str, "video_ffmpeg_bin_dir"),
    # Chat
    Flag("--jinja", None, "use_jinja", "--no-jinja"),
    Flag("--chat-template", str, "chat_template"),
    Flag("--chat-template-file", of.content, "chat_template"),
    Flag("--chat-template-kwargs", of.template_values, params.put_template_values),
    Flag("--skip-chat-parsing", None, "force_pure_content_parser", "--no-skip-chat-parsing"),
    Flag("--prefill-assistant", None, "prefill_assistant", "--no-prefill-assistant"),
    Flag(
        "--reasoning-format",
        one_of("common_reasoning_format", "none auto deepseek deepseek-legacy"),
        "reasoning_format",
    ),
    Flag("-rea --reasoning", of.on_off_auto, params.put_reasoning),
    Flag("--reasoning-effort", str, params.put_reasoning_effort),
    Flag("--reasoning-budget", within(-1), "sampling.reasoning_budget_tokens"),
    Flag("--reasoning-budget-message", str, "sampling.reasoning_budget_message"),
    Flag("--reasoning-preserve", None, params.put_kept_reasoning, "--no-reasoning-preserve"),
    Flag("-sp --special", None, "special"),
    # Sampling, where a request does not say
    Flag("-n --predict --n-predict", whole, "n_predict"),
    Flag("-s --seed", of.seed, "sampling.seed"),
    Flag("--ignore-eos", None, "sampling.ignore_eos"),
    Flag("--samplers", str, "sampling.samplers"),
    Flag("--temp --temperature", of.temperature, "sampling.temp"),
    Flag("--top-k", whole, "sampling.top_k"),
    Flag("--top-p", number, "sampling.top_p"),
    Flag("--min-p", number, "sampling.min_p"),
    Flag("--typical --typical-p", number, "sampling.typ_p"),
    Flag("--xtc-probability", number, "sampling.xtc_probability"),
    Flag("--xtc-threshold", number, "sampling.xtc_threshold"),
    Flag("--repeat-last-n", within(0), params.put_repeat_last),
    Flag("--repeat-penalty", of.positive, "sampling.penalty_repeat"),
    Flag("--presence-penalty", number, "sampling.penalty_present"),
    Flag("--frequency-penalty", number, "sampling.penalty_freq"),
    Flag("--dry-multiplier", number, "sampling.dry_multiplier"),
    Flag("--dry-base", number, "sampling.dry_base"),
    Flag("--dry-allowed-length", whole, "sampling.dry_allowed_length"),
    Flag("--dry-penalty-last-n", within(0), "sampling.dry_penalty_last_n"),
    Flag("--adaptive-target", number, "sampling.adaptive_target"),
    Flag("--adaptive-decay", number, "sampling.adaptive_decay"),
    Flag("--dynatemp-range", number, "sampling.dynatemp_range"),
    Flag("--dynatemp-exp", number, "sampling.dynatemp_exponent"),
    Flag("--mirostat", whole, "sampling.mirostat"),
    Flag("--mirostat-lr", number, "sampling.mirostat_eta"),
    Flag("--mirostat-ent", number, "sampling.mirostat_tau"),
    Flag("-bs --backend-sampling", None, "sampling.backend_sampling"),
    # Speculative decoding
    Flag("--spec-type", of.some_of("common_speculative_type", _SPECULATION), params.put_draft_types),
    Flag("--spec-draft-model -md --model-draft", str, f"{_DRAFT}.mparams.path"),
    Flag("--spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft", of.layers, f"{_DRAFT}.n_gpu_layers"),
    Flag("--spec-draft-threads -td --threads-draft", of.threads, f"{_DRAFT}.cpuparams.n_threads"),
    Flag("--spec-draft-threads-batch -tbd --threads-batch-draft", of.threads, f"{_DRAFT}.cpuparams_batch.n_threads"),
    Flag("--spec-draft-type-k -ctkd --cache-type-k-draft", _CACHE, f"{_DRAFT}.cache_type_k"),
    Flag("--spec-draft-type-v -ctvd --cache-type-v-draft", _CACHE, f"{_DRAFT}.cache_type_v"),
    Flag("--spec-draft-n-max", within(0), f"{_DRAFT}.n_max"),
    Flag("--spec-draft-n-min", whole, f"{_DRAFT}.n_min"),
    Flag("--spec-draft-p-min --draft-p-min", number, f"{_DRAFT}.p_min"),
    Flag("--spec-draft-p-split --draft-p-split", number, f"{_DRAFT}.p_split"),
    Flag("--spec-ngram-mod-n-min", within(0, 1024), "speculative.ngram_mod.n_min"),
    Flag("--spec-ngram-mod-n-max", within(0, 1024), "speculative.ngram_mod.n_max"),
    Flag("--spec-ngram-mod-n-match", _NGRAM, "speculative.ngram_mod.n_match"),
    Flag("--spec-ngram-simple-size-n", _NGRAM, "speculative.ngram_simple.size_n"),
    Flag("--spec-ngram-simple-size-m", _NGRAM, "speculative.ngram_simple.size_m"),
    Flag("--spec-ngram-simple-min-hits", within(1), "speculative.ngram_simple.min_hits"),
)

REMOVED: Final = {
    "--draft --draft-n --draft-max": "use --spec-draft-n-max or --spec-ngram-mod-n-max",
    "--draft-min --draft-n-min": "use --spec-draft-n-min or --spec-ngram-mod-n-min",
    "--spec-ngram-size-n": "use the respective --spec-ngram-*-size-n",
    "--spec-ngram-size-m": "use the respective --spec-ngram-*-size-m",
    "--spec-ngram-min-hits": "use the respective --spec-ngram-*-min-hits",
}
"""Flags that llama-server had once, and what it says of them."""

ELSEWHERE: Final = """
    -cl --cache-list --completion-bash --list-devices -dev --device --rpc -C --cpu-mask -Cr --cpu-range -Cb
    --cpu-mask-batch -Crb --cpu-range-batch -ot --override-tensor -cmoe --cpu-moe -ncmoe --n-cpu-moe -ncffn
    --n-cpu-ffn --moe-cache-mib --override-kv --control-vector --control-vector-scaled --control-vector-layer-range
    -mu --model-url -dr --docker-repo -hf -hfr --hf-repo -hff --hf-file -hft --hf-token -mmu --mmproj-url
    --models-dir --models-preset --models-max --models-autoload --no-models-autoload --tools --tools-runtime
    --mcp-servers-config --mcp-servers-json -ag --agent -no-ag --no-agent --ui-mcp-proxy --webui-mcp-proxy
    --no-ui-mcp-proxy --no-webui-mcp-proxy -e --escape --no-escape -r --reverse-prompt --spm-infill --sampler-seq
    --sampling-seq --top-nsigma --top-n-sigma --dry-sequence-breaker -l --logit-bias --grammar --grammar-file -j
    --json-schema -jf --json-schema-file --log-disable --log-file --log-jsonl --no-log-jsonl --log-colors
    --no-log-prefix --no-log-timestamps --log-prompts-dir -lcs --lookup-cache-static -lcd --lookup-cache-dynamic
    -hfd -hfrd --hf-repo-draft -Cd --cpu-mask-draft -Crd --cpu-range-draft -Cbd --cpu-mask-batch-draft
    --cpu-strict-draft --cpu-strict-batch-draft --prio-draft --prio-batch-draft --poll-draft --poll-batch-draft -otd
    --override-tensor-draft -cmoed --cpu-moe-draft -ncmoed --n-cpu-moe-draft -devd --device-draft
    --no-spec-draft-backend-sampling
""".split()  # noqa: SIM905 (a hundred quotation marks)
"""Flags that llama-server has and the wheel cannot take; see also ``FAMILIES``."""

FAMILIES: Final = ("--spec-", "--fim-", "--gpt-oss-", "--vision-", "--embd-gemma-")
"""How others of them begin."""
