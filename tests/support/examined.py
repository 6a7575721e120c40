"""What the doctor finds, and programs for it to find."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from velesio_worker.cli.doctor.command import Check, run_check
from velesio_worker.cli.doctor.findings import CheckReport, Finding
from velesio_worker.core.settings import Settings

GIB = 1024**3
HELP = """usage: llama-server [options]

----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
                                        (env: LLAMA_ARG_N_GPU_LAYERS)
-m,    --model FNAME                    model path
-np,   --parallel N                     number of parallel sequences to decode (default: -1, -1 = auto)
--host HOST                             ip address to listen
--port PORT                             port to listen
--metrics                               enable prometheus compatible metrics endpoint
--slots, --no-slots                     expose slots monitoring endpoint
--draft, --draft-n, --draft-max N       the argument
                                        has been removed. use --spec-draft-n-max
-cram, --cache-ram N                    set the maximum cache size in MiB
--embedding, --embeddings               restrict to only support embedding use case"""


def program(path: Path, script: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


async def look(check: Check, environ: Mapping[str, str] | None = None, **settings: object) -> list[Finding]:
    """Run one check on a worker with these settings."""
    values = {"model_path": "m.gguf", "context_size": 512, "run_sd": False, "health_port": 0, **settings}
    report = CheckReport("it", Settings.model_validate(values), os.environ if environ is None else environ)
    await run_check(check, report)
    return report.findings


def told(found: Sequence[Finding]) -> list[str]:
    return [finding.status.value for finding in found]


def only(found: Sequence[Finding], status: str) -> Finding:
    """The finding of that status, of which there is one."""
    matching = [finding for finding in found if finding.status == status]
    assert len(matching) == 1, found
    return matching[0]


def remedy(finding: Finding) -> str:
    assert finding.remedy
    return finding.remedy
