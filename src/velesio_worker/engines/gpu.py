"""What NVML, the library behind nvidia-smi, tells of the GPUs that engines see."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.core.threads import aside

pynvml: Final[Any] = importlib.import_module("pynvml")  # it has no types

RETRY_SECONDS: Final = 60.0
"""How long after a failure NVML is left alone."""

ANSWER_SECONDS: Final = 2.0
"""How long a reading waits for one that is under way: where a GPU hangs, NVML does not return."""

STILL_SECONDS: Final = 5.0
"""Memory that did not grow for so long will not be freed any more."""

_POLL_SECONDS: Final = 0.25

_REMEDIES: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver on this machine, or a container started without its GPU",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the NVIDIA driver (modprobe nvidia) or install it",
    pynvml.NVML_ERROR_NO_PERMISSION: "give this user access to /dev/nvidia*",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "restart the machine after a driver's update, or this container",
    pynvml.NVML_ERROR_GPU_IS_LOST: "see what dmesg says of the GPU (Xid) and restart the machine",
    pynvml.NVML_ERROR_RESET_REQUIRED: "reset the GPU (nvidia-smi --gpu-reset) or restart the machine",
    pynvml.NVML_ERROR_UNKNOWN: "see what nvidia-smi says; a container that lost its GPU has to be restarted",
}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG instance of one, at the moment that it was read.

    Attributes:
        index: NVML's index, which nvidia-smi shows; for a MIG instance that of its GPU.
        uuid: ``GPU-…`` or ``MIG-…``.
        name: its model.
        total: its memory, in bytes.
        used: what of it is taken, by whomever, in bytes.
        free: what is left, in bytes.
        utilisation: how much of the time it worked of late, 0 to 100; None if the driver does not say.
        temperature: in °C; None if the driver does not say.
    """

    index: int
    uuid: str
    name: str
    total: int
    used: int
    free: int
    utilisation: int | None
    temperature: int | None


class _NoGpuError(Exception):
    """There is nothing to read; the text says why."""


def visible_devices(value: str, devices: Sequence[tuple[int, str]]) -> list[int]:
    """Return the devices that a value of CUDA_VISIBLE_DEVICES chooses, in its order, as CUDA would.

    The list is one of numbers or one of UUIDs, whose beginnings do. It ends at the first entry that names no device;
    an empty value chooses none. With an entry that comes twice CUDA refuses them all. It takes one MIG instance only.
    Numbers mean what NVML and nvidia-smi mean by them only under ``CUDA_DEVICE_ORDER=PCI_BUS_ID``: by default CUDA
    numbers the fastest GPU 0; name GPUs that differ by UUID. (CUDA Programming Guide, "CUDA Environment Variables")

    Args:
        value: such as ``0``, ``1,0`` or ``GPU-8932f937``.
        devices: pairs (index, UUID); those with a negative index can be chosen by UUID only.
    """
    words = [word.strip() for word in value.split(",")]
    kind = words[0][:4] if words[0].startswith(("GPU-", "MIG-")) else ""
    chosen: list[int] = []
    for word in words:
        if kind:
            found = [index for index, uuid in devices if word.startswith(kind) and uuid.startswith(word)]
        else:
            digits = re.match(r"\+?[0-9]{1,9}", word)  # CUDA reads as strtoul does: 1x is 1
            found = [index for index, _ in devices if digits and index == int(digits.group())]
        if len(found) != 1:
            break
        if found[0] in chosen:
            return []
        chosen += found
    return chosen[:1] if kind == "MIG-" else chosen


class Gpus:
    """The GPUs that CUDA_VISIBLE_DEVICES lets engines see. May be used from several threads.

    What fails is said once in the log, and NVML is then left alone for ``RETRY_SECONDS``.

    Args:
        visible: the value of CUDA_VISIBLE_DEVICES; see :func:`visible_devices`.

    Attributes:
        driver: the driver's version; None without NVML, and before the first reading.
        trouble: why the last reading told nothing and what to do, for people; None if it did.
    """

    def __init__(self, visible: str) -> None:
        self.driver: str | None = None
        self.trouble: str | None = None
        self._visible = visible
        self._lock = threading.Lock()
        self._is_open = False
        self._readings: Sequence[Callable[[], Gpu]] = ()
        self._rests_until = 0.0
        self._left_out = ""

    def read(self) -> Sequence[Gpu]:
        """Read the visible GPUs' figures; empty where that cannot be done, which :attr:`trouble` explains.

        It raises nothing. It blocks: mostly less than a millisecond, longer at the first call, and for as long as
        NVML wants if a GPU hangs.
        """
        if not self._lock.acquire(timeout=ANSWER_SECONDS):
            self._say("NVML does not answer yet; if that lasts, a GPU hangs: see what dmesg says of it (Xid)")
            return ()
        try:
            return self._read()
        except pynvml.NVMLError as error:
            remedy = _REMEDIES.get(error.value, "see what nvidia-smi says")
            self._give_up(f"NVML cannot be read ({error}): {remedy}")
        except _NoGpuError as error:
            self._give_up(str(error))
        finally:
            self._lock.release()
        return ()

    def _read(self) -> Sequence[Gpu]:
        if not self._is_open:
            if time.monotonic() < self._rests_until:
                return ()
            self._open()
        gpus = [reading() for reading in self._readings]
        if self.trouble is not None:
            self.trouble = None
            log.info("NVML can be read again", action="nvml_back")
        return gpus

    def _open(self) -> None:
        self.driver = None
        pynvml.nvmlInit()
        self._is_open = True
        self.driver = pynvml.nvmlSystemGetDriverVersion()
        opened = [_opened(index, uuid) for index, uuid in _chosen(self._visible)]
        self._readings = [reading for reading in opened if not isinstance(reading, str)]
        left_out = "; ".join(reason for reason in opened if isinstance(reason, str))
        if not self._readings:
            raise _NoGpuError(left_out)
        if left_out not in {"", self._left_out}:
            self._left_out = left_out
            log.info(left_out, action="gpu_left_out")

    def _give_up(self, trouble: str) -> None:
        """Leave NVML alone for a while; its handles are worth nothing any more."""
        self._say(trouble)
        self._rests_until = time.monotonic() + RETRY_SECONDS
        if self._is_open:
            _unless_refused(pynvml.nvmlShutdown)
            self._is_open = False
            self._readings = ()

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            log.log(logging.WARNING if self._readings else logging.INFO, trouble, action="no_nvml")


def _unless_refused(read: Callable[[], Any]) -> Any:  # noqa: ANN401 (pynvml has no types)
    """Return a figure; None if there is an error, as for what a driver does not support."""
    try:
        return read()
    except pynvml.NVMLError:
        return None


def _listed(visible: str) -> Mapping[int, tuple[int, str]]:
    """Return index and UUID of all devices by the numbers that CUDA gives them; -1: the MIG instance that is named."""
    devices: dict[int, tuple[int, str]] = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))
        except pynvml.NVMLError_NoPermission:
            continue  # not this container's: CUDA does not count it either
        except pynvml.NVMLError:
            uuid = ""  # it keeps its number; if it is chosen, the error comes again
        devices[len(devices)] = index, uuid
    uuid = visible.split(",", 1)[0].strip()
    if uuid.startswith("MIG-"):
        with contextlib.suppress(pynvml.NVMLError):  # there is none of that name, or it may not be used
            gpu = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(pynvml.nvmlDeviceGetHandleByUUID(uuid))
            devices[-1] = pynvml.nvmlDeviceGetIndex(gpu), uuid
    return devices


def _chosen(visible: str) -> Sequence[tuple[int, str]]:
    """Return index and UUID of the visible devices; :class:`_NoGpuError` if there is none."""
    devices = _listed(visible)
    if not devices:
        raise _NoGpuError("NVML knows no GPU that may be used here: check that the container was given one (--gpus)")
    numbers = visible_devices(visible, [(number, uuid) for number, (_, uuid) in devices.items()])
    if not numbers:
        known = ", ".join(f"{number} {uuid}" for number, (_, uuid) in devices.items() if number >= 0)
        raise _NoGpuError(f"CUDA_VISIBLE_DEVICES={visible!r} chooses none of the GPUs here ({known}): name one of them")
    return [devices[number] for number in numbers]


def _opened(index: int, uuid: str) -> Callable[[], Gpu] | str:
    """Return what reads a chosen device, or why its memory cannot be told."""
    if is_instance := uuid.startswith("MIG-"):
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    else:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    unknown = f"The free memory of GPU {index} ({name}) is not known"
    mig_mode = _unless_refused(lambda: pynvml.nvmlDeviceGetMigMode(handle))
    if mig_mode and mig_mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE and not is_instance:  # it would tell that of all
        return f"{unknown}: it is divided; name a MIG instance in CUDA_VISIBLE_DEVICES (nvidia-smi -L lists them)"
    try:
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported as error:
        return f"{unknown} ({error}), as where a GPU shares the machine's memory: choose GPU_LAYERS yourself"

    def read() -> Gpu:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        load = _unless_refused(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        heat = _unless_refused(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        return Gpu(index, uuid, name, memory.total, memory.used, memory.free, load, heat)

    return read


def free_memory(gpus: Sequence[Gpu]) -> int | None:
    """Return the free memory of all these GPUs, in bytes; None if there are none, so that it is not known."""
    return sum(gpu.free for gpu in gpus) if gpus else None


async def read_soon(gpus: Gpus, *, seconds: float = ANSWER_SECONDS) -> Sequence[Gpu]:
    """Read the GPUs; nothing where NVML does not answer in time, since a driver that hangs must not hold the worker."""
    with anyio.move_on_after(seconds):
        return await aside(gpus.read)
    log.warning(f"NVML did not answer in {seconds:g} s: the GPU's driver may hang", action="nvml_hangs")
    return []


async def until_free(gpus: Gpus, at_least: int, *, seconds: float = 15.0, still_seconds: float = STILL_SECONDS) -> bool:
    """Wait until memory that an ended process held is free: drivers give it back a while after its end.

    Args:
        gpus: those that count, taken together.
        at_least: how much has to be free, in bytes.
        seconds: the longest to wait.
        still_seconds: it is given up before if memory does not grow for so long.

    Returns:
        whether so much is free; True, at once, where that cannot be known.
    """
    most, grown_at = -1, anyio.current_time()
    with anyio.move_on_after(seconds):
        while True:
            free = free_memory(await aside(gpus.read))
            if free is None or free >= at_least:
                return True
            if free > most:
                most, grown_at = free, anyio.current_time()
            elif anyio.current_time() >= grown_at + still_seconds:
                break
            await anyio.sleep(_POLL_SECONDS)
    return False
