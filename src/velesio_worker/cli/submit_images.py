"""What ``velesio-worker submit`` does with image jobs: their data, their files, and how far they are."""

from __future__ import annotations

import base64
import binascii
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import typer

from velesio_worker.cli.base import harmless, print_json
from velesio_worker.cli.pictures import PNG, drawn, graphics_of
from velesio_worker.wire.errors import JobError, VelesioError

_HINT: Final = "'--output'"


@dataclass(frozen=True, slots=True)
class Output:
    """Where the images of a job go.

    Attributes:
        path: the file that was asked for, or the folder; None: a file in this folder, named after the job.
        force: whether files that are there are written over.
        show: whether the images are shown in the terminal, too; None: where it can.
        json: whether the rest of the result is printed as JSON.
    """

    path: Path | None
    force: bool
    show: bool | None
    json: bool

    def files(self, job_id: str, count: int) -> list[Path]:
        """Return the files of so many images."""
        path = self.path or Path()
        if path.is_dir():
            path /= f"{job_id}.png"
        return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]

    def check(self, job_id: str, data: Mapping[str, Any]) -> None:
        """Find out before the job runs that its images could not be written. Raises typer.BadParameter."""
        counts = [data.get(name, 1) for name in ("batch_size", "n_iter")]
        count = counts[0] * counts[1] if all(isinstance(one, int) and 0 < one <= 1024 for one in counts) else 1  # noqa: PLR2004 (more, and the worker refuses it)
        for file in self.files(job_id, count):
            if file.suffix.lower() not in {"", ".png"}:
                raise typer.BadParameter(f"images are PNGs: name it {file.stem}.png", param_hint=_HINT)
            if not os.access(file.parent, os.W_OK):
                raise typer.BadParameter(f"the folder {file.parent} is not there, or not yours", param_hint=_HINT)
            if file.exists() and not self.force:
                raise typer.BadParameter(f"{file} is there already: --force writes over it", param_hint=_HINT)

    def take(self, job_id: str, result: Mapping[str, Any]) -> None:
        """Write the images of a result, show them, and print where they are.

        Raises:
            JobError: there are none.
            VelesioError: they cannot be written.
        """
        images = _list(result.get("images"))
        for warning in _list(result.get("warnings")):
            print(f"warning: {harmless(str(warning))}", file=sys.stderr)
        if not images:
            raise JobError("The job was cancelled: there is no image.")
        stored = bool(result.get("images_stored"))
        pictures = [] if stored else [_decoded(image) for image in images]
        files = [] if stored else self._write(job_id, pictures)
        rest = {name: value for name, value in result.items() if stored or name != "images"}
        if self.json:
            print_json({"id": job_id, "files": [str(file) for file in files]} | rest)
            return
        print(*(harmless(str(place)) for place in (images if stored else files)), sep="\n", flush=True)
        if seeds := _list(result.get("seeds")):
            print(harmless(f"seed {', '.join(map(str, seeds))}"), file=sys.stderr)
        self._show(pictures)

    def _write(self, job_id: str, pictures: Sequence[bytes]) -> list[Path]:
        files = self.files(job_id, len(pictures))
        for file, picture in zip(files, pictures, strict=True):
            try:
                with file.open("wb" if self.force else "xb") as opened:
                    opened.write(picture)
            except OSError as error:
                raise VelesioError(
                    f"{file} cannot be written ({error.strerror}): the same command with --id {job_id} and another "
                    "--output fetches the images while their result is kept, and makes none anew"
                ) from None
        return files

    def _show(self, pictures: Sequence[bytes]) -> None:
        graphics = None if self.show is False else graphics_of(sys.stdout, os.environ)
        if graphics is None:
            if self.show:
                print("this is no terminal that is known to show images: open the file", file=sys.stderr)
            return
        for picture in pictures:
            try:
                sys.stdout.write(drawn(picture, graphics))
            except ValueError as error:
                print(f"the image is not shown: {harmless(str(error))}", file=sys.stderr)


def _list(value: object) -> list[Any]:
    """Return a list of a result; an empty one for what no worker wrote."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _decoded(image: object) -> bytes:
    """Return the bytes of an image; what is no PNG is written nowhere. Raises JobError."""
    try:
        picture = base64.b64decode(image, validate=True) if isinstance(image, str) else b""
    except binascii.Error:
        picture = b""
    if not picture.startswith(PNG):
        raise JobError("The result holds something that is no PNG.")
    return picture


def init_image(path: Path) -> str:
    """Return a file as a job carries it. Raises typer.BadParameter: it cannot be read."""
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="'--init-image'") from None
