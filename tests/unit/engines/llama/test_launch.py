"""How text engines come to be: a fake binary, real processes, GPUs that are doubles."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import psutil
import pytest

from tests.doubles import llama_server as server_double
from tests.doubles.engine import EngineDouble
from tests.support.gguf_files import gguf
from tests.support.servers import free_port
from velesio_worker.core.settings import Settings
from velesio_worker.engines import gpu as gpu_module
from velesio_worker.engines.base import Serving, Spec
from velesio_worker.engines.gpu import Gpu, Gpus
from velesio_worker.engines.llama import launch
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.launch import LlamaLauncher
from velesio_worker.engines.models.transfer import ModelDownloadError
from velesio_worker.wire.errors import BadJobError, EngineStartError, ModelUnavailableError, NoCapacityError

pytestmark = [pytest.mark.processes, pytest.mark.anyio]

MIB = 1024 * 1024
PLENTY = 70_000
MODELS = Path("models")
BINARY = """#!{python}
import json, sys
from pathlib import Path

sys.path.insert(0, {folder!r})
import llama_server as server_double

arguments = sys.argv[1:]
with Path({calls!r}).open("a") as calls:
    print(json.dumps(arguments), file=calls)
layers = int(arguments[arguments.index("--n-gpu-layers") + 1]) if "--n-gpu-layers" in arguments else 99
if layers > {most}:
    print("load_tensors: loading", flush=True)
    print("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", flush=True)
    sys.exit(1)
server_double.PROPS["model_path"] = arguments[arguments.index("--model") + 1]
server_double.main("ready")
"""


class GpuDouble(Gpus):
    """GPUs whose free memory, in MiB, is told: one reading after the other, the last one again and again."""

    def __init__(self, *free: int | None) -> None:
        super().__init__("0")
        self._free = list(free)
        self.readings = 0

    def read(self) -> Sequence[Gpu]:
        self.readings += 1
        free = self._free.pop(0) if len(self._free) > 1 else self._free[0]
        if free is None:
            return ()
        return [Gpu(0, "GPU-1", "NVIDIA Double", 80_000 * MIB, (80_000 - free) * MIB, free * MIB, 0, 40)]


class Bench:
    """A folder with models and a binary that has memory for so many layers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        (folder / MODELS / "more").mkdir(parents=True)
        for name in ("main", "other", "more/third"):
            (folder / MODELS / f"{name}.gguf").write_bytes(gguf())

    def binary(self, most_layers: int = 20) -> Path:
        """Put the binary there."""
        path = self.folder / "data/binaries/llama-server"
        path.parent.mkdir(parents=True, exist_ok=True)
        doubles = str(Path(server_double.__file__).parent)
        path.write_text(BINARY.format(python=sys.executable, folder=doubles, calls=str(self._calls), most=most_layers))
        path.chmod(0o755)
        return path

    def launcher(self, gpus: Gpus | None = None, **values: object) -> LlamaLauncher:
        whole = {"model_path": MODELS / "main.gguf", "llama_port": free_port(), "llm_concurrency": 2, **values}
        return LlamaLauncher(Settings.model_validate(whole), gpus or GpuDouble(PLENTY))

    def calls(self) -> list[list[str]]:
        """The arguments of all starts."""
        return [json.loads(line) for line in self._calls.read_text().splitlines()] if self._calls.exists() else []

    def sizes(self) -> list[tuple[str | None, str]]:
        """Layers and context of a job, of all starts."""
        return [(value(call, "--n-gpu-layers"), str(int(value(call, "--ctx-size") or 0) // 2)) for call in self.calls()]


def value(arguments: list[str], flag: str) -> str | None:
    return arguments[arguments.index(flag) + 1] if flag in arguments else None


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gpu_module, "_POLL_SECONDS", 0.01)
    before = set(psutil.Process().children(recursive=True))
    yield Bench(tmp_path)
    assert set(psutil.Process().children(recursive=True)) <= before, "no test leaves a process"


async def start(stack: AsyncExitStack, launcher: LlamaLauncher, spec: Spec | None = None) -> Serving[LlamaEngine]:
    with anyio.fail_after(60):
        return await stack.enter_async_context(launcher.serve(spec or launcher.default()))


async def fails(launcher: LlamaLauncher, spec: Spec | None = None) -> EngineStartError:
    async with AsyncExitStack() as stack:
        with pytest.raises(EngineStartError) as caught:
            await start(stack, launcher, spec)
    return caught.value


async def test_the_default_model_is_served_as_it_is_configured(bench: Bench) -> None:
    bench.binary(most_layers=99)
    launcher = bench.launcher()
    async with AsyncExitStack() as stack:
        serving = await start(stack, launcher)
        assert serving.engine.model == "main"
        assert serving.slots == 2
        assert serving.kill is not None
    assert bench.sizes() == [("35", "4096")]
    assert value(bench.calls()[0], "--model") == "models/main.gguf"


async def test_another_model_is_served_from_its_file(bench: Bench) -> None:
    bench.binary(most_layers=99)
    launcher = bench.launcher()
    spec = await launcher.resolve("other")
    async with AsyncExitStack() as stack:
        serving = await start(stack, launcher, spec)
        assert serving.engine.model == "other"
    assert value(bench.calls()[0], "--model") == "models/other.gguf"


async def test_a_server_that_runs_out_of_memory_is_tried_once_more_with_less(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.binary()
    launcher = bench.launcher(GpuDouble(6000))
    async with AsyncExitStack() as stack:
        serving = await start(stack, launcher)
        assert serving.engine.model == "main"
    assert bench.sizes() == [("30", "4096"), ("20", "2048")]
    assert "ran out of memory with 30 layers on the GPU and 4096 tokens" in caplog.text


async def test_a_server_that_runs_out_of_memory_twice_is_given_up_with_numbers(bench: Bench) -> None:
    bench.binary()
    (bench.folder / MODELS / "main.gguf").write_bytes(gguf() + bytes(3 * MIB))
    error = await fails(bench.launcher(GpuDouble(12_345)))
    assert bench.sizes() == [("35", "4096"), ("30", "4096")]
    assert error.final
    assert error.out_of_memory
    message = str(error)
    assert "35 layers on the GPU and 4096 tokens of context a job, then with 30 layers" in message
    assert "NVIDIA Double has 12,345 of 80,000 MiB free" in message
    assert "the model's file has 3 MiB" in message
    assert "GPU_LAYERS" in message
    assert "cudaMalloc failed: out of memory" in message


@pytest.mark.parametrize("sizing", ["off", "OFF"])
async def test_a_sizing_that_is_the_operators_is_not_lowered(bench: Bench, sizing: str) -> None:
    bench.binary()
    error = await fails(bench.launcher(GpuDouble(3000), gpu_sizing=sizing))
    assert bench.sizes() == [("35", "4096")]
    assert (error.final, error.out_of_memory) == (True, True)
    assert "has 3,000 of 80,000 MiB free" in str(error)


async def test_layers_that_are_left_to_the_server_are_lowered_from_the_uppermost_step(bench: Bench) -> None:
    bench.binary(most_layers=30)
    launcher = bench.launcher(GpuDouble(3000), gpu_sizing="fit")
    async with AsyncExitStack() as stack:
        await start(stack, launcher)
    assert bench.sizes() == [(None, "4096"), ("30", "4096")]
    assert value(bench.calls()[0], "--fit") == "on"


async def test_the_lack_of_a_reading_is_told_instead_of_numbers(bench: Bench) -> None:
    bench.binary(most_layers=-1)
    error = await fails(bench.launcher(GpuDouble(None), gpu_layers=0, context_size=512))
    assert bench.sizes() == [("0", "512")]
    assert "no NVML" in str(error)


async def test_other_trouble_than_memory_is_not_tried_with_less(bench: Bench) -> None:
    path = bench.binary()
    path.write_text("#!/bin/sh\necho 'error: invalid argument: --metrics'; exit 1\n")
    error = await fails(bench.launcher())
    assert (error.final, error.out_of_memory) == (True, False)


async def test_a_startup_command_that_runs_out_of_memory_is_not_changed(bench: Bench) -> None:
    path = bench.binary(most_layers=-1)
    command = f"{path} --model /in/the/container/x.gguf"  # which does not exist on this side
    error = await fails(bench.launcher(startup_command=command))
    assert len(bench.calls()) == 1
    assert (error.final, error.out_of_memory) == (True, True)
    message = str(error)
    assert "NVIDIA Double has 70,000 of 80,000 MiB free" in message
    assert "STARTUP_COMMAND" in message
    assert "35 layers" not in message, "it has its own idea of how many"


async def test_the_next_engine_waits_for_the_memory_of_the_last_one(bench: Bench) -> None:
    bench.binary(most_layers=99)
    gpus = GpuDouble(PLENTY, 1000, 1000, 30_000, PLENTY)
    launcher = bench.launcher(gpus)
    for _ in range(2):
        async with AsyncExitStack() as stack:
            await start(stack, launcher)
    assert bench.sizes() == [("35", "4096")] * 2
    assert gpus.readings >= 5


async def test_the_second_try_waits_for_the_memory_of_the_first_one(bench: Bench) -> None:
    bench.binary(most_layers=30)
    gpus = GpuDouble(PLENTY, 1000, 1000, 1000, PLENTY)
    launcher = bench.launcher(gpus)
    async with AsyncExitStack() as stack:
        await start(stack, launcher)
        assert gpus.readings >= 5
    assert bench.sizes() == [("35", "4096"), ("30", "4096")]


async def test_a_model_that_is_not_whole_is_told_by_its_name(bench: Bench) -> None:
    bench.binary()
    (bench.folder / MODELS / "other.gguf").write_bytes(gguf()[:-100])
    launcher = bench.launcher()
    with pytest.raises(ModelUnavailableError) as caught:
        await launcher.resolve("other")
    assert str(caught.value).startswith("The model other cannot be loaded: other.gguf ")
    assert "MODEL_PATH" not in str(caught.value)
    assert bench.calls() == []


async def test_a_model_that_cannot_be_downloaded_is_told_by_its_setting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_settings: Settings) -> None:
        raise ModelDownloadError("no such host")

    monkeypatch.setattr(launch, "fetch_missing", refused)
    bench.binary()
    launcher = bench.launcher()
    assert str(await fails(launcher)) == "MODEL_URL: no such host"
    assert bench.calls() == []


async def test_a_token_that_can_be_none_is_told_by_its_setting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.binary()
    monkeypatch.setenv("HF_TOKEN", "hf_\N{SNOWMAN}")
    error = await fails(bench.launcher(model_path=MODELS / "missing.gguf", model_url="http://127.0.0.1:9/x.gguf"))
    assert "HF_TOKEN" in str(error)
    assert error.final


async def test_what_an_earlier_worker_left_is_ended_before_the_first_start_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []

    def sweep() -> list[int]:
        swept.append(len(bench.calls()))
        return []

    monkeypatch.setattr(launch, "end_orphans", sweep)
    bench.binary(most_layers=99)
    launcher = bench.launcher()
    for _ in range(2):
        async with AsyncExitStack() as stack:
            await start(stack, launcher)
    assert swept == [0]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("other", "other.gguf"),
        ("other.gguf", "other.gguf"),
        ("third", "more/third.gguf"),
        ("more/third", "more/third.gguf"),
        ("more/third.gguf", "more/third.gguf"),
    ],
)
async def test_a_job_names_a_model_in_the_folder(bench: Bench, name: str, path: str) -> None:
    assert await bench.launcher().resolve(name) == Spec(MODELS / path, Path(path).stem)


@pytest.mark.parametrize("name", ["main", "main.gguf"])
async def test_the_default_is_known_by_its_name(bench: Bench, name: str) -> None:
    launcher = bench.launcher()
    assert await launcher.resolve(name) == launcher.default() == Spec(MODELS / "main.gguf", "main")


@pytest.mark.parametrize("name", ["missing", "../main", "/etc/passwd", "", "main.bin"])
async def test_a_model_that_there_is_not_is_no_job_for_this_worker(bench: Bench, name: str) -> None:
    with pytest.raises(BadJobError, match=r"data\.model"):
        await bench.launcher().resolve(name)


async def test_a_model_that_was_loaded_stays_the_one_that_its_name_means(bench: Bench) -> None:
    bench.binary(most_layers=99)
    launcher = bench.launcher()
    spec = await launcher.resolve("other")
    async with AsyncExitStack() as stack:
        await start(stack, launcher, spec)
        assert await launcher.resolve("other") == spec
        assert await launcher.resolve("main") == launcher.default()


async def test_a_startup_command_that_names_a_model_serves_others_of_the_folder(bench: Bench) -> None:
    path = bench.binary()
    launcher = bench.launcher(startup_command=f"{path} --n-gpu-layers 5 --model models/main.gguf")
    assert launcher.default() == Spec(Path("models/main.gguf"), "main")
    assert await launcher.resolve("main") == launcher.default()
    spec = await launcher.resolve("other")
    async with AsyncExitStack() as stack:
        serving = await start(stack, launcher, spec)
        assert serving.engine.model == "other"
    assert bench.calls() == [["--n-gpu-layers", "5", "--model", "models/other.gguf"]]


async def test_a_model_is_the_default_however_its_path_is_written(bench: Bench) -> None:
    whole = bench.folder / MODELS / "main.gguf"
    launcher = bench.launcher(startup_command=f"llama-server -m {whole}")
    for name in ("main", "main.gguf"):
        assert await launcher.resolve(name) == launcher.default() == Spec(whole, "main")


async def test_a_startup_command_that_names_no_model_serves_its_own_only(bench: Bench) -> None:
    launcher = bench.launcher(startup_command="llama-server -hf some/model")
    assert launcher.default() == Spec()
    with pytest.raises(NoCapacityError, match="STARTUP_COMMAND, which names no --model"):
        await launcher.resolve("other")


async def test_a_server_elsewhere_serves_its_own_model_only(bench: Bench, double: EngineDouble) -> None:
    launcher = bench.launcher(llama_server_url=double.url)
    assert not launcher.owned
    with pytest.raises(NoCapacityError, match="LLAMA_SERVER_URL"):
        await launcher.resolve("other")
    async with AsyncExitStack() as stack:
        serving = await start(stack, launcher)
        assert serving.kill is None
        assert await launcher.resolve("tiny.Q4_1") == launcher.default() == Spec()
        with pytest.raises(NoCapacityError, match=r"LLAMA_SERVER_URL; it has tiny\.Q4_1"):
            await launcher.resolve("main")
    assert bench.calls() == []


async def test_answers_are_told_from_those_of_other_models_and_settings(bench: Bench) -> None:
    launcher = bench.launcher()
    default, other = launcher.default(), await launcher.resolve("other")
    known = {
        launcher.identity(default),
        launcher.identity(other),
        bench.launcher(context_size=512).identity(default),
        bench.launcher(llama_args="--lora x.gguf").identity(default),
        bench.launcher(startup_command="llama-server -m models/main.gguf").identity(default),
    }
    assert len(known) == 5
    assert bench.launcher().identity(default) in known
    (bench.folder / MODELS / "main.gguf").write_bytes(gguf() + bytes(32))
    assert launcher.identity(default) not in known, "it is another file now"
    (bench.folder / MODELS / "main.gguf").unlink()
    assert launcher.identity(default) is None


async def test_the_answers_of_a_server_elsewhere_are_told_once_its_model_is_known(
    bench: Bench, double: EngineDouble
) -> None:
    launcher = bench.launcher(llama_server_url=double.url)
    assert launcher.identity(launcher.default()) is None
    async with AsyncExitStack() as stack:
        await start(stack, launcher)
        identity = launcher.identity(launcher.default())
        assert identity is not None
        assert identity.startswith(f"tiny.Q4_1 at {double.url} on ")


def another_model(bench: Bench) -> None:
    (bench.folder / MODELS / "main.gguf").write_bytes(gguf() + bytes(32))


def no_model(bench: Bench) -> None:
    (bench.folder / MODELS / "main.gguf").unlink()


def a_binary(bench: Bench) -> None:
    bench.binary()


@pytest.mark.parametrize("mend", [another_model, no_model, a_binary])
async def test_a_mended_cause_is_noticed(bench: Bench, mend: Callable[[Bench], None]) -> None:
    launcher = bench.launcher()
    before = launcher.fingerprint(launcher.default())
    assert launcher.fingerprint(launcher.default()) == before
    mend(bench)
    assert launcher.fingerprint(launcher.default()) != before


async def test_memory_that_comes_and_goes_mends_nothing(bench: Bench) -> None:
    launcher = bench.launcher(GpuDouble(3100, 9000))
    assert launcher.fingerprint(launcher.default()) == launcher.fingerprint(launcher.default())


async def test_jobs_are_told_a_setting_and_nothing_that_a_command_wrote(bench: Bench) -> None:
    said = "failed with token SECRETKEY at /srv/private, HF_TOKEN=hf_abc, redis://:pw1@host, Bearer abcdefgh"
    command = shlex.join([sys.executable, "-c", f"print({said!r}); raise SystemExit(3)"])
    error = await fails(bench.launcher(startup_command=command))
    assert error.public == "llama-server ended with exit code 3: check STARTUP_COMMAND. The worker's log says more."
    assert "failed with token SECRETKEY" in str(error)  # for the log, and the worker's state
    assert not [secret for secret in ("hf_abc", "pw1", "abcdefgh") if secret in str(error)]


async def test_jobs_are_told_no_folder_of_the_host(bench: Bench) -> None:
    error = await fails(bench.launcher(model_path=bench.folder / "missing.gguf"))
    assert str(bench.folder) in str(error)
    assert str(bench.folder) not in error.public
    assert error.public.startswith("missing.gguf does not exist")
