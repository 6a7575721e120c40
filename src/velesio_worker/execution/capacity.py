"""What a worker can run: its text engine and its image engine, as far as there is one to start or to use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from velesio_worker.core.logs import get_logger
from velesio_worker.core.settings import GpuSharing, Settings
from velesio_worker.engines.gpu import Gpus
from velesio_worker.engines.llama.engine import LlamaEngine
from velesio_worker.engines.llama.launch import LlamaLauncher
from velesio_worker.engines.supervision.gpu_turns import GpuTurns
from velesio_worker.engines.supervision.memory import default_limit
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.engines.webui.command import FOLDER, LAUNCH, has_webui
from velesio_worker.engines.webui.engine import WebUIEngine
from velesio_worker.engines.webui.launch import WebUILauncher
from velesio_worker.execution.gate import EngineGate
from velesio_worker.execution.management import ImageModels, TextModels
from velesio_worker.queue.fleet import Fleet
from velesio_worker.queue.keys import Keys
from velesio_worker.wire.errors import SettingsError
from velesio_worker.wire.jobs import Kind

log = get_logger(__name__)


_RETRY_ELSEWHERE: Final = 5.0
"""How soon an engine that somebody else runs is looked at again once it was given up, in seconds: that costs little."""


@dataclass(frozen=True, slots=True)
class EngineSet:
    """What a worker runs; None for what it does not."""

    text: TextModels | None
    image: ImageModels | None

    @property
    def gates(self) -> list[EngineGate[LlamaEngine] | EngineGate[WebUIEngine]]:
        """The engines that there are."""
        return [side.gate for side in self._sides]

    @property
    def _sides(self) -> list[TextModels | ImageModels]:
        return [side for side in (self.text, self.image) if side is not None]

    def expect(self, kind: Kind) -> None:
        """Take note that a job of a kind may come on its engine in a moment."""
        for gate in self.gates:
            if gate.kind is kind:
                gate.supervisor.expect()

    def facts(self) -> dict[str, str | int]:
        """What is known of the engines and their models, for the worker's hash in Redis."""
        return {name: value for side in self._sides for name, value in side.facts().items()}

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of job that need an engine and have one."""
        return [gate.kind for gate in self.gates]

    @property
    def supervisors(self) -> dict[Kind, Supervisor[Any]]:
        """Who owns each engine, by the kind of its jobs."""
        return {gate.kind: gate.supervisor for gate in self.gates}

    @property
    def models(self) -> dict[Kind, TextModels | ImageModels]:
        """Who looks after the models of each kind of management job."""
        sides = {Kind.MANAGE: self.text, Kind.MANAGE_IMAGE: self.image}
        return {kind: side for kind, side in sides.items() if side is not None}


def make_engine_set(settings: Settings, fleet: Fleet, gpus: Gpus, on_change: Callable[[], None]) -> EngineSet:
    """Make the engines that the settings ask for; ``on_change`` is called when the state of one has changed."""
    turns = GpuTurns() if settings.gpu_sharing is GpuSharing.EXCLUSIVE else None
    text = image = None
    patience = Patience(
        settings.stall_seconds,
        settings.probe_seconds,
        settings.idle_unload_seconds,
        memory=settings.engine_memory_limit or default_limit(),
    )
    elsewhere = replace(patience, retry=_RETRY_ELSEWHERE)
    if settings.run_llm:
        llama = LlamaLauncher(settings, gpus)
        supervise = partial(Supervisor, llama, elsewhere if settings.llama_server_url else patience, turns=turns)
        text = TextModels(EngineGate(Kind.TEXT, supervise, fleet, on_change), llama, on_change)
    if settings.run_sd and has_webui(settings):
        webui = WebUILauncher(settings, gpus)
        eager = turns is None or text is None  # else the first job of either kind decides whose turn it is
        borne = elsewhere if settings.sd_server_url else patience
        supervise = partial(Supervisor, webui, borne, turns=turns, eager=eager)
        image = ImageModels(EngineGate(Kind.IMAGE, supervise, fleet, on_change), webui)
    return EngineSet(text, image)


def check_engine_set(settings: Settings, engines: EngineSet) -> None:
    """Say what the settings leave undone.

    Raises:
        SettingsError: there is nothing that the worker could run.
    """
    missing = f"there is no Stable Diffusion WebUI: {FOLDER / LAUNCH} is missing, and neither SD_STARTUP_COMMAND nor"
    if engines.text is None and engines.image is None:
        if settings.run_sd:
            raise SettingsError(f"RUN_LLM=false, and {missing} SD_SERVER_URL is set: the worker has nothing to run")
        raise SettingsError("RUN_LLM=false and RUN_SD=false leave the worker nothing to run: set one of them to true")
    if settings.run_sd and engines.image is None:
        log.warning(
            f"{missing} SD_SERVER_URL is set. Image jobs stay in {Keys(settings.queue_name).ready(Kind.IMAGE)} until a "
            "worker takes them that has one. RUN_SD=false: I know",
            action="no_image_engine",
        )
