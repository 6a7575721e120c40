"""A double of NVML."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 1024**3
ONE = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
TWO = "GPU-89aa0000-0000-4106-c12f-20bd9faed9f6"
SLICE = "MIG-5e8d2a10-1111-5222-9333-444455556666"
real: Any = importlib.import_module("pynvml")


@dataclass
class Device:
    """What the double tells of a GPU or a MIG instance; an exception in place of a figure is raised."""

    uuid: str
    name: str = "NVIDIA H100"
    free: int | Exception = 70 * GIB
    load: int | Exception = 42
    heat: int | Exception = 55
    mig: int | Exception = field(default_factory=lambda: error("NOT_SUPPORTED"))
    handle: Exception | None = None
    parent: int | None = None


def error(name: str) -> Exception:
    return real.NVMLError(getattr(real, f"NVML_ERROR_{name}"))


def told(figure: Any) -> Any:
    if isinstance(figure, Exception):
        raise figure
    return figure


class Nvml:
    """A double of pynvml: constants and errors are the real ones, and it has no function that pynvml lacks."""

    def __init__(self, *devices: Device) -> None:
        self.devices = list(devices)
        self.init: Exception | None = None
        self.inits = self.shutdowns = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(real, name)
        assert not callable(value) or isinstance(value, type), f"{name} is not doubled"
        return value

    def _gpus(self) -> list[Device]:
        return [device for device in self.devices if device.parent is None]

    def nvmlInit(self) -> None:  # noqa: N802 (as NVML has it)
        self.inits += 1
        told(self.init)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._gpus())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802
        device = self._gpus()[index]
        told(device.handle)
        return device

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Device:  # noqa: N802
        for device in self.devices:
            if device.uuid == uuid:
                return device
        raise error("NOT_FOUND")

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice: Device) -> Device:  # noqa: N802, N803
        assert migDevice.parent is not None
        return self._gpus()[migDevice.parent]

    def nvmlDeviceGetIndex(self, handle: Device) -> int:  # noqa: N802
        return self._gpus().index(handle)

    def nvmlDeviceGetUUID(self, handle: Device) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Device) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:  # noqa: N802
        return [told(device.mig), 0]

    def nvmlDeviceGetMemoryInfo(self, handle: Device) -> object:  # noqa: N802
        free = told(handle.free)
        return SimpleNamespace(total=80 * GIB, used=80 * GIB - free, free=free)

    def nvmlDeviceGetUtilizationRates(self, handle: Device) -> object:  # noqa: N802
        return SimpleNamespace(gpu=told(handle.load), memory=0)

    def nvmlDeviceGetTemperature(self, handle: Device, sensor: int) -> int:  # noqa: N802
        assert sensor == real.NVML_TEMPERATURE_GPU
        return told(handle.heat)
