from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import anyio
import pytest

from tests.doubles.nvml import GIB, ONE, SLICE, TWO, Device, Nvml, error, real
from velesio_worker.engines import gpu
from velesio_worker.engines.gpu import Gpu, Gpus, free_memory, until_free, visible_devices


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    double = Nvml(Device(ONE), Device(TWO, name="NVIDIA L4", free=20 * GIB))
    monkeypatch.setattr(gpu, "pynvml", double)
    return double


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets the given number of seconds pass."""
    now = 1000.0

    def monotonic() -> float:
        return now

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=monotonic))
    return passes


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["action"] for record in caplog.records]


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("INFO"):
        yield


def indices(gpus: Sequence[Gpu]) -> list[int]:
    return [one.index for one in gpus]


DEVICES = [(0, ONE), (1, TWO), (2, "GPU-aaaa"), (-1, SLICE)]


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        ("", []),
        ("0", [0]),
        (" 1 , 0 ", [1, 0]),
        ("2,0,1", [2, 0, 1]),
        ("0,foo,1", [0]),
        ("0,,1", [0]),
        ("0,2,-1,1", [0, 2]),
        ("0,3,1", [0]),
        ("-1", []),
        ("foo", []),
        ("all", []),
        ("NoDevFiles", []),
        ("0,1,0", []),
        ("+1", [1]),
        ("01", [1]),
        ("1x,0", [1, 0]),
        ("9" * 5000, []),
        (ONE, [0]),
        ("GPU-8932f937", [0]),
        ("GPU-89a,GPU-893", [1, 0]),
        ("GPU-893,GPU-8932f937", []),
        ("GPU-89", []),
        ("GPU-aaaa,GPU-89", [2]),
        ("GPU-ffff,GPU-aaaa", []),
        ("GPU-aaaa,0", [2]),
        ("0,GPU-aaaa", [0]),
        ("8932f937", []),
        (SLICE, [-1]),
        ("MIG-5e8d", [-1]),
        (f"{SLICE},GPU-aaaa", [-1]),
        ("MIG-0000", []),
    ],
)
def test_a_list_of_devices_is_read_as_cuda_reads_it(value: str, chosen: list[int]) -> None:
    assert visible_devices(value, DEVICES) == chosen


def test_of_several_mig_instances_cuda_takes_the_first() -> None:
    assert visible_devices("MIG-b,MIG-a", [(-1, "MIG-a"), (-2, "MIG-b")]) == [-2]


def test_the_doubles_functions_are_pynvmls_and_are_called_alike() -> None:
    functions = {name: function for name, function in vars(Nvml).items() if name.startswith("nvml")}
    assert functions
    for name, function in functions.items():
        assert hasattr(real, name)
        inspect.signature(getattr(real, name)).bind(*list(inspect.signature(function).parameters)[1:])


def test_the_figures_are_those_of_the_visible_gpus_in_their_order(nvml: Nvml) -> None:
    assert Gpus("1,0").read() == [
        Gpu(1, TWO, "NVIDIA L4", 80 * GIB, 60 * GIB, 20 * GIB, 42, 55),
        Gpu(0, ONE, "NVIDIA H100", 80 * GIB, 10 * GIB, 70 * GIB, 42, 55),
    ]
    assert nvml.inits == 1


@pytest.mark.parametrize(("visible", "index"), [("0", 0), ("1", 1), (TWO, 1), ("GPU-8932", 0)])
def test_a_gpu_is_chosen_by_number_by_uuid_or_by_the_uuids_beginning(nvml: Nvml, visible: str, index: int) -> None:
    assert nvml.devices
    assert indices(Gpus(visible).read()) == [index]


def test_nvml_is_opened_once_and_not_before_it_is_needed(nvml: Nvml) -> None:
    gpus = Gpus("0")
    assert nvml.inits == 0
    first = gpus.read()
    assert (gpus.driver, gpus.trouble) == ("570.86.15", None)
    nvml.devices[0].free = GIB
    assert [one.free for one in (*first, *gpus.read())] == [70 * GIB, GIB]
    assert nvml.inits == 1


def test_without_the_library_there_is_no_reading_and_it_is_said_once(
    nvml: Nvml, clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    nvml.init = error("LIBRARY_NOT_FOUND")
    gpus = Gpus("0")
    for _ in range(3):
        assert not gpus.read()
        clock(61)
    assert gpus.driver is None
    assert gpus.trouble is not None
    assert "NVML Shared Library Not Found): no NVIDIA driver on this machine" in gpus.trouble
    assert "a container started without its GPU" in gpus.trouble
    assert actions(caplog) == ["no_nvml"]
    assert caplog.records[0].levelname == "INFO"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("DRIVER_NOT_LOADED", "modprobe nvidia"),
        ("LIB_RM_VERSION_MISMATCH", "restart the machine"),
        ("UNKNOWN", "a container that lost its GPU has to be restarted"),
        ("TIMEOUT", "see what nvidia-smi says"),
    ],
)
def test_what_is_wrong_comes_with_what_to_do(nvml: Nvml, name: str, remedy: str) -> None:
    nvml.init = error(name)
    gpus = Gpus("0")
    assert not gpus.read()
    assert gpus.trouble is not None
    assert remedy in gpus.trouble


def test_nvml_is_tried_again_after_a_minute_not_before(nvml: Nvml, clock: Callable[[float], None]) -> None:
    nvml.init = error("DRIVER_NOT_LOADED")
    gpus = Gpus("0")
    assert not gpus.read()
    nvml.init = None
    clock(59)
    assert not gpus.read()
    assert nvml.inits == 1
    clock(1)
    assert indices(gpus.read()) == [0]
    assert (gpus.driver, gpus.trouble) == ("570.86.15", None)


def test_a_gpu_that_is_lost_and_comes_back_costs_no_more_than_readings(
    nvml: Nvml, clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    gpus = Gpus("0")
    assert gpus.read()
    nvml.devices[0].free = error("GPU_IS_LOST")
    for _ in range(3):
        assert not gpus.read()
        assert not gpus.read()
        clock(61)
    assert gpus.trouble is not None
    assert "GPU is lost" in gpus.trouble
    assert actions(caplog) == ["no_nvml"]
    assert caplog.records[0].levelname == "WARNING"
    assert (nvml.inits, nvml.shutdowns) == (3, 3)
    nvml.devices[0].free = GIB
    assert [one.free for one in gpus.read()] == [GIB]
    assert actions(caplog) == ["no_nvml", "nvml_back"]
    nvml.devices[0].free = error("GPU_IS_LOST")
    assert not gpus.read()
    assert actions(caplog) == ["no_nvml", "nvml_back", "no_nvml"]


def test_a_lost_gpu_that_nobody_chose_keeps_its_number_and_harms_no_other(nvml: Nvml) -> None:
    nvml.devices[0].handle = error("GPU_IS_LOST")
    assert indices(Gpus("1").read()) == [1]
    lost = Gpus("0,1")
    assert not lost.read()
    assert lost.trouble is not None
    assert "GPU is lost" in lost.trouble


def test_a_gpu_of_another_container_has_no_number(nvml: Nvml) -> None:
    nvml.devices[0].handle = error("NO_PERMISSION")
    assert [(one.index, one.uuid) for one in Gpus("0").read()] == [(1, TWO)]


@pytest.mark.parametrize("name", ["NOT_SUPPORTED", "INVALID_ARGUMENT", "FUNCTION_NOT_FOUND"])
def test_a_figure_that_the_driver_does_not_offer_is_none(nvml: Nvml, name: str) -> None:
    nvml.devices[0].load = error(name)
    nvml.devices[0].heat = error(name)
    (one,) = Gpus("0").read()
    assert (one.utilisation, one.temperature, one.free) == (None, None, 70 * GIB)


def test_an_idle_gpu_is_not_one_that_says_nothing(nvml: Nvml) -> None:
    nvml.devices[0].load = 0
    assert [one.utilisation for one in Gpus("0").read()] == [0]


def test_a_gpu_that_shares_the_machines_memory_is_left_out_and_that_is_said_once(
    nvml: Nvml, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.devices[0].free = error("NOT_SUPPORTED")
    both = Gpus("0,1")
    assert indices(both.read()) == indices(both.read()) == [1]
    assert both.trouble is None
    assert actions(caplog) == ["gpu_left_out"]
    alone = Gpus("0")
    assert not alone.read()
    assert alone.trouble is not None
    assert "shares the machine's memory" in alone.trouble
    assert actions(caplog) == ["gpu_left_out", "no_nvml"]


def test_a_mig_instance_is_read_by_its_uuid(nvml: Nvml) -> None:
    refused = error("NOT_SUPPORTED")
    nvml.devices.append(Device(SLICE, "NVIDIA H100 MIG 1g.10gb", 9 * GIB, load=refused, heat=refused, parent=1))
    (one,) = Gpus(SLICE).read()
    assert (one.index, one.uuid, one.name, one.free) == (1, SLICE, "NVIDIA H100 MIG 1g.10gb", 9 * GIB)


def test_a_gpu_that_is_divided_is_not_read_as_a_whole(nvml: Nvml) -> None:
    nvml.devices[0].mig = 1
    divided = Gpus("0")
    assert not divided.read()
    assert divided.trouble is not None
    assert "name a MIG instance in CUDA_VISIBLE_DEVICES" in divided.trouble
    nvml.devices[1].mig = 0
    assert indices(Gpus("1").read()) == [1]


@pytest.mark.parametrize("visible", ["", "-1", "7", "GPU-0000", SLICE, "0,0"])
def test_where_no_gpu_is_chosen_there_is_no_reading_and_those_there_are_named(nvml: Nvml, visible: str) -> None:
    assert nvml.devices
    gpus = Gpus(visible)
    assert not gpus.read()
    assert gpus.trouble is not None
    assert f"CUDA_VISIBLE_DEVICES={visible!r} chooses none of the GPUs here (0 {ONE}, 1 {TWO})" in gpus.trouble
    assert gpus.driver == "570.86.15"


def test_a_driver_without_a_gpu_is_no_reading(nvml: Nvml) -> None:
    nvml.devices.clear()
    gpus = Gpus("0")
    assert not gpus.read()
    assert gpus.trouble is not None
    assert "NVML knows no GPU" in gpus.trouble


def test_a_reading_does_not_wait_for_one_that_hangs(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu, "ANSWER_SECONDS", 0.01)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> int:
        hangs.set()
        assert goes_on.wait(20)
        return 1

    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", hang)
    gpus = Gpus("0")
    thread = threading.Thread(target=gpus.read)
    thread.start()
    try:
        assert hangs.wait(20)
        assert not gpus.read()
        assert not gpus.read()
        assert gpus.trouble is not None
        assert "NVML does not answer" in gpus.trouble
    finally:
        goes_on.set()
        thread.join(20)
    assert gpus.trouble is None
    assert actions(caplog) == ["no_nvml", "nvml_back"]


def test_free_memory_is_that_of_all_and_unknown_without_any(nvml: Nvml) -> None:
    assert nvml.devices
    assert free_memory(Gpus("0,1").read()) == 90 * GIB
    assert free_memory([]) is None


def freed_by_and_by(nvml: Nvml, monkeypatch: pytest.MonkeyPatch, *amounts: int) -> list[int]:
    """Have each reading of memory tell the next of ``amounts``, and the last from then on; returns what was told."""
    readings: list[int] = []

    def memory(_handle: object) -> object:
        free = amounts[min(len(readings), len(amounts) - 1)]
        readings.append(free)
        return SimpleNamespace(total=80 * GIB, used=80 * GIB - free, free=free)

    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", memory)
    monkeypatch.setattr(gpu, "_POLL_SECONDS", 0.001)
    return readings


@pytest.mark.anyio
async def test_memory_is_waited_for_until_it_is_free(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = freed_by_and_by(nvml, monkeypatch, GIB, GIB, 2 * GIB, 5 * GIB, 9 * GIB, 20 * GIB)
    assert await until_free(Gpus("0"), 9 * GIB)
    assert readings[-1] == 9 * GIB


@pytest.mark.anyio
async def test_memory_that_does_not_grow_is_not_waited_for(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = freed_by_and_by(nvml, monkeypatch, 2 * GIB, GIB)
    with anyio.fail_after(60):
        assert not await until_free(Gpus("0"), 9 * GIB, seconds=3600, still_seconds=0.02)
    assert readings[-1] == GIB


@pytest.mark.anyio
async def test_memory_is_not_waited_for_longer_than_asked(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    freed_by_and_by(nvml, monkeypatch, *range(1_000_000))
    with anyio.fail_after(60):
        assert not await until_free(Gpus("0"), 9 * GIB, seconds=0.05)


@pytest.mark.anyio
async def test_where_free_memory_is_not_known_nobody_waits(nvml: Nvml) -> None:
    nvml.init = error("LIBRARY_NOT_FOUND")
    with anyio.fail_after(60):
        assert await until_free(Gpus("0"), 9 * GIB, seconds=3600)


def has_gpu() -> bool:
    try:
        real.nvmlInit()
        return real.nvmlDeviceGetCount() > 0
    except real.NVMLError:
        return False


@pytest.mark.skipif(not has_gpu(), reason="there is no NVIDIA GPU")
def test_a_real_gpu_is_read() -> None:
    uuid = real.nvmlDeviceGetUUID(real.nvmlDeviceGetHandleByIndex(0))
    gpus = Gpus(uuid)
    (one,) = gpus.read()
    assert gpus.driver
    assert one.uuid == uuid
    assert one.name
    assert one.total >= one.used
    assert 0 < one.free <= one.total
    assert one.utilisation is None or 0 <= one.utilisation <= 100
    assert one.temperature is None or 0 < one.temperature < 150
    assert Gpus(uuid[:12]).read()[0].uuid == uuid


@pytest.mark.skipif(has_gpu(), reason="there is an NVIDIA GPU")
def test_a_real_machine_without_a_gpu_is_understood() -> None:
    gpus = Gpus("0")
    assert not gpus.read()
    assert gpus.driver is None
    assert gpus.trouble
