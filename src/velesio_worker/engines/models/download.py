"""Models from the internet: downloaded once for all workers of a folder, and put there whole."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.core.model_source import ModelSource, hub_token, parse_model_source
from velesio_worker.core.settings import Settings
from velesio_worker.engines.models.gguf import part_paths
from velesio_worker.engines.models.meter import Meter
from velesio_worker.engines.models.part_file import PartFile, hash_file, locked
from velesio_worker.engines.models.transfer import ModelDownloadError, OnProgress, Transfer

__all__ = ["ModelDownloadError", "OnProgress", "download", "fetch_missing"]

_PART_ENDING: Final = re.compile(r"-\d{5}-of-\d{5}\.gguf(?=$|\?)")

_log = get_logger(__name__)


async def download(source: ModelSource, target: Path, *, token: str | None, on_progress: OnProgress) -> str | None:
    """Download a model, unless it is there; returns the SHA-256 of what came, if anything did, of its first part.

    What came of it stays when this fails or is cancelled: it goes on there.

    The checksum is the source's or else the one that the Hugging Face hub gives (``X-Linked-Etag``). Of several
    processes that download to one target, one does and the others wait for it. All parts of a split model are
    downloaded, the first one last: where that is, all are.

    Args:
        source: where it comes from; of a split model the first part, whose checksum it may give.
        target: the file that it becomes; while it comes, ``<target>.part`` holds it.
        token: the user's token on the hub; it is sent to the hub and to no other host.
        on_progress: called at the start and about once a second, for each part of a split model anew.

    Raises:
        ModelDownloadError: it could not be had, or is not what was asked for; the message says what to do.
    """
    sha256: str | None = None
    for part_source, part_target in _files(source, target):
        try:
            sha256 = await _download_file(part_source, part_target, token, on_progress)
        except OSError as error:
            raise ModelDownloadError(
                f"{part_target} cannot be written or read ({error.strerror or error}): "
                "check that folder's rights and room, or name another one (MODEL_PATH)"
            ) from error
    return sha256


def _files(source: ModelSource, target: Path) -> list[tuple[ModelSource, Path]]:
    """List the files of a model in the order of their download."""
    names = [path.name for path in part_paths(Path(source.filename))]
    if len(names) <= 1:
        return [(source, target)]
    ending, targets = names[0][-len("-00001-of-00001.gguf") :], list(part_paths(target))
    if source.filename != names[0]:
        raise ModelDownloadError(f"{source.filename} is a part of a split model: name the first, {names[0]}")
    if target != targets[0] or len(targets) != len(names):
        raise ModelDownloadError(f"{target} is no name for this split model: it has to end in {ending} (MODEL_PATH)")
    further = [
        (replace(source, url=_PART_ENDING.sub(name[-len(ending) :], source.url), filename=name, sha256=None), path)
        for name, path in zip(names[1:], targets[1:], strict=True)
    ]
    return [*reversed(further), (source, target)]


async def _download_file(source: ModelSource, target: Path, token: str | None, on_progress: OnProgress) -> str | None:
    another = PartFile(target)

    def tell_of_another() -> None:
        another.look()
        on_progress(another.size, another.origin.total if another.origin else None)

    if await _is_there(source, target):
        return None
    await anyio.Path(target.parent).mkdir(parents=True, exist_ok=True)
    async with locked(target.with_name(f"{target.name}.lock"), tell_of_another):
        if not await _is_there(source, target):
            async with PartFile(target) as part:
                return await Transfer(source, part, token, on_progress).run()
    return None


async def _is_there(source: ModelSource, target: Path) -> bool:
    path = anyio.Path(target)
    if await path.is_dir():
        raise ModelDownloadError(f"{target} is a folder: name a file in it (MODEL_PATH)")
    if not await path.exists():
        return False
    if source.sha256 is not None and (found := await hash_file(target)) != source.sha256:
        raise ModelDownloadError(
            f"{target} is there, but not the file that is wanted: its SHA-256 is {found}, expected is {source.sha256}. "
            "Remove it to have it downloaded, name another file (MODEL_PATH), or correct the checksum"
        )
    return True


async def fetch_missing(settings: Settings) -> None:
    """Download ``MODEL_PATH`` from ``MODEL_URL`` if it is missing, telling the log how that goes.

    Raises:
        ModelDownloadError: it could not be had; the message says what to do.
        SettingsError: ``HF_TOKEN`` cannot be a token.
    """
    target = settings.model_path
    if settings.model_url is None or await anyio.Path(target).exists():
        return
    meter, began = Meter(), time.monotonic()

    def tell(done: int, total: int | None) -> None:
        meter.note(done, total)
        if meter.is_due():
            _log.info(f"downloading {target.name}: {meter}", action="model_download", bytes=done, total=total)

    source = parse_model_source(settings.model_url)
    sha256 = await download(source, target, token=hub_token(), on_progress=tell)
    seconds = round(time.monotonic() - began, 1)
    facts = {"bytes": target.stat().st_size, "seconds": seconds, "sha256": sha256}
    _log.info(f"{target} is there", action="model_downloaded", **facts)
