from __future__ import annotations

import base64
import logging
import os
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.lowlevel
import pytest
from redis.asyncio import Redis

from tests.doubles.s3 import S3Double, Stored
from tests.support.waiting import until
from velesio_worker.core.settings import Settings
from velesio_worker.execution.results.folder_store import FolderStore, ResultStore, StoreError
from velesio_worker.execution.results.images import AT_ONCE, CHECK_NAME, STAYED, ImageOutput, check, open_store
from velesio_worker.execution.results.s3_store import S3Store
from velesio_worker.queue.claims import Held
from velesio_worker.queue.keys import Keys
from velesio_worker.wire.errors import SettingsError
from velesio_worker.wire.events import Done

obstore = pytest.importorskip("obstore")
pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
IMAGE = base64.b64encode(PNG).decode()
URL = "s3://pictures/results/today"


class Memory:
    """A store that notes how many are at it at a time, and fails for names that end as told."""

    def __init__(self, broken: str = "none", error: Exception | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.most = self._now = 0
        self._broken = broken
        self._error = error or StoreError("the disk is full: make room")

    async def put(self, name: str, content: bytes) -> str:
        self._now += 1
        self.most = max(self.most, self._now)
        await anyio.lowlevel.checkpoint()
        self._now -= 1
        if name.endswith(self._broken):
            raise self._error
        self.files[name] = content
        return f"https://files.example/{name}"


async def stored(store: ResultStore | None, result: dict[str, Any], inline_bytes: int = 0) -> dict[str, Any]:
    output = ImageOutput(cast("Redis", None), store, inline_bytes=inline_bytes)
    held = Held("chat:7", Keys("q").slot("w1", "image-0"), b"", 2)
    return (await output.place(held, Done(result, "stop"))).result


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def fetched(url: str) -> bytes:
    """What whoever has the URL gets; it needs no credentials, and no proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url) as response:
        return response.read()


def in_file(url: str) -> bytes:
    return Path(urlsplit(url).path).read_bytes()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Double]:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with S3Double().serving() as double:
        for name, value in double.environ.items():
            monkeypatch.setenv(name, value)
        yield double


class TestFolder:
    async def test_a_file_is_there_whole_and_its_url_leads_to_it(self, tmp_path: Path) -> None:
        url = await FolderStore(tmp_path).put("a b.png", PNG)
        assert url == (tmp_path / "a b.png").as_uri()
        assert fetched(url) == PNG
        assert names(tmp_path) == ["a b.png"]

    async def test_a_public_url_is_put_before_the_name(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path, "https://files.example/pictures/")
        assert await store.put("a b.png", PNG) == "https://files.example/pictures/a%20b.png"

    async def test_a_file_of_the_same_name_is_replaced(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path)
        await store.put("a.png", b"old")
        await store.put("a.png", b"new")
        assert (tmp_path / "a.png").read_bytes() == b"new"

    async def test_files_can_be_read_by_whom_the_umask_lets(self, tmp_path: Path) -> None:
        before = os.umask(0o022)
        try:
            await FolderStore(tmp_path).put("a.png", PNG)
        finally:
            os.umask(before)
        assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b.png", "../a.png", "a\\b.png", "a\0b"])
    async def test_a_name_with_a_path_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="no file's name"):
            await FolderStore(tmp_path).put(name, PNG)
        assert not names(tmp_path)

    async def test_a_missing_folder_is_not_made_and_the_error_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"No such file or directory\): make the folder.*RESULT_STORE"):
            await FolderStore(tmp_path / "mount").put("a.png", PNG)
        assert not (tmp_path / "mount").exists()

    async def test_a_write_that_fails_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            await FolderStore(tmp_path).put("a.png", PNG)
        assert not names(tmp_path)

    async def test_a_disk_that_hangs_is_given_up_and_takes_no_more_than_so_many_threads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on = threading.Event()

        def hang(_: int) -> None:
            assert go_on.wait(60)

        monkeypatch.setattr(os, "fsync", hang)
        store = FolderStore(tmp_path, put_seconds=0.05, most_writers=1)
        try:
            with pytest.raises(StoreError, match=r"took no file in 0\.05 s: check the disk"):
                await store.put("a.png", PNG)
            with pytest.raises(StoreError, match="hangs with earlier files: check the disk"):
                await store.put("b.png", PNG)
        finally:
            go_on.set()
        await until(lambda: names(tmp_path) == ["a.png"])


class TestS3:
    async def test_a_file_is_put_signed_and_its_signed_url_leads_to_it(self, s3: S3Double) -> None:
        url = await S3Store(URL, signed_seconds=60).put("chat~7-1-0.png", PNG)
        assert s3.objects == {"pictures/results/today/chat~7-1-0.png": Stored(PNG, "image/png")}
        assert url.startswith(f"{s3.url}/pictures/results/today/chat~7-1-0.png?")
        assert await anyio.to_thread.run_sync(fetched, url) == PNG

    async def test_a_signed_url_is_valid_as_long_as_told_and_as_s3_allows(self, s3: S3Double) -> None:
        assert s3.port
        for asked, given in ((60, "60"), (30 * 24 * 3600, "604800")):
            url = await S3Store(URL, signed_seconds=asked).put("a.png", PNG)
            assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [given]

    async def test_a_public_url_is_put_before_prefix_and_name(self, s3: S3Double) -> None:
        store = S3Store("s3://pictures/my results/", "https://cdn.example")
        assert await store.put("a.png", PNG) == "https://cdn.example/my%20results/a.png"
        assert list(s3.objects) == ["pictures/my results/a.png"]

    async def test_a_bucket_needs_no_prefix(self, s3: S3Double) -> None:
        assert await S3Store("s3://pictures", "https://cdn.example").put("a.png", PNG) == "https://cdn.example/a.png"
        assert list(s3.objects) == ["pictures/a.png"]

    async def test_a_large_file_is_one_request(self, s3: S3Double) -> None:
        large = bytes(12 * 1024 * 1024)
        await S3Store(URL).put("a.png", large)
        assert (s3.answers, s3.objects["pictures/results/today/a.png"].content) == ([200], large)

    async def test_a_server_that_is_busy_once_is_asked_again(self, s3: S3Double) -> None:
        s3.failures = [503]
        await S3Store(URL).put("a.png", PNG)
        assert s3.answers == [503, 200]

    async def test_a_server_that_stays_busy_is_not_asked_for_ever(self, s3: S3Double) -> None:
        s3.failures = [503] * 50
        with pytest.raises(StoreError, match=r"503.*: check RESULT_STORE"):
            await S3Store(URL).put("a.png", PNG)
        assert len(s3.answers) == 4

    async def test_wrong_credentials_are_named(self, s3: S3Double, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(StoreError, match=r"403.*: let AWS_ACCESS_KEY_ID have s3:PutObject") as caught:
            await S3Store(URL).put("a.png", PNG)
        assert s3.answers == [403]
        assert "\n" not in str(caught.value)
        assert "another" not in str(caught.value)

    async def test_a_missing_bucket_is_named(self, s3: S3Double) -> None:
        assert s3.port
        with pytest.raises(
            StoreError, match=r"the bucket paintings takes no file \(there is no such bucket\): make it"
        ):
            await S3Store("s3://paintings").put("a.png", PNG)

    async def test_a_server_that_does_not_answer_is_given_up(self, s3: S3Double) -> None:
        s3.stalls = True
        with pytest.raises(StoreError, match=r"no answer in 0\.2 s\): check AWS_ENDPOINT_URL"):
            await S3Store(URL, put_seconds=0.2).put("a.png", PNG)

    async def test_without_any_credentials_the_error_names_the_variables(
        self, s3: S3Double, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"{s3.url}/none")
        with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID"):
            await S3Store(URL).put("a.png", PNG)

    async def test_a_name_with_a_path_is_refused(self, s3: S3Double) -> None:
        with pytest.raises(ValueError, match="no file's name"):
            await S3Store(URL).put("../a.png", PNG)
        assert not s3.answers

    @pytest.mark.parametrize(
        ("name", "value", "says"),
        [
            ("AWS_ENDPOINT_URL", "nonsense", "must be a URL such as"),
            ("AWS_ENDPOINT_URL", "http://[::1", "must be a URL such as"),
            ("AWS_ENDPOINT_URL", "", "or unset"),
            ("AWS_ENDPOINT_URL", "http://files example", "must be a URL such as"),
            ("AWS_ENDPOINT_URL_S3", "ftp://files.example", "must be a URL such as"),
            ("AWS_ALLOW_HTTP", "false", "set AWS_ALLOW_HTTP=true"),
            ("AWS_ALLOW_HTTP", "maybe", "set AWS_ALLOW_HTTP=true"),
            ("AWS_SKIP_SIGNATURE", "maybe", r"check the AWS_\* variables"),
        ],
    )
    async def test_a_wrong_variable_is_named_at_once(
        self, s3: S3Double, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=says):
            S3Store(URL)
        assert not s3.answers

    async def test_even_a_panic_of_obstore_is_an_error_of_the_store(
        self, s3: S3Double, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def panic(*_: object, **__: object) -> None:
            raise RuntimeError("rust future panicked")

        monkeypatch.setattr(obstore, "put_async", panic)
        with pytest.raises(StoreError, match=r"\(rust future panicked\): check RESULT_STORE"):
            await S3Store(URL).put("a.png", PNG)
        assert not s3.answers

    async def test_where_obstore_is_missing_the_error_says_how_to_get_it(
        self, s3: S3Double, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert s3.port
        monkeypatch.setitem(sys.modules, "obstore", None)
        with pytest.raises(SettingsError, match=r"pip install velesio-worker\[s3\]"):
            S3Store(URL)


class TestOpening:
    async def test_without_a_setting_there_is_no_store(self) -> None:
        assert open_store(Settings()) is None

    async def test_a_path_is_a_folder(self, tmp_path: Path) -> None:
        store = open_store(Settings(result_store=str(tmp_path), result_store_url="https://files.example"))
        assert store
        assert await store.put("a.png", PNG) == "https://files.example/a.png"

    async def test_an_s3_url_is_a_bucket_whose_urls_are_valid_as_long_as_results(self, s3: S3Double) -> None:
        store = open_store(Settings(result_store=URL, result_ttl=77))
        assert store
        assert "X-Amz-Expires=77&" in await store.put("a.png", PNG)
        assert s3.objects

    @pytest.mark.parametrize(
        "where",
        ["s3://", "s3:///prefix", "s3://bucket?x=1", "s3://a/b//c", "s3://a/../b", "gs://bucket/x", "file:///tmp"],
    )
    async def test_anything_else_is_refused_with_what_is_allowed(self, where: str) -> None:
        with pytest.raises(SettingsError, match=r"RESULT_STORE='.*': must be a folder, or s3://bucket/prefix"):
            open_store(Settings(result_store=where))

    async def test_credentials_in_the_url_are_refused_and_not_shown(self) -> None:
        with pytest.raises(SettingsError, match="must be a folder") as caught:
            open_store(Settings(result_store="s3://key:secret@bucket"))
        assert "secret" not in str(caught.value)


class TestCheck:
    async def test_a_store_that_can_be_written_passes(self, tmp_path: Path, s3: S3Double) -> None:
        await check(FolderStore(tmp_path))
        await check(FolderStore(tmp_path))
        await check(S3Store("s3://pictures"))
        assert names(tmp_path) == [CHECK_NAME]
        assert list(s3.objects) == [f"pictures/{CHECK_NAME}"]

    async def test_one_that_cannot_is_named_with_what_to_change(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"^RESULT_STORE cannot be written: .*: make the folder"):
            await check(FolderStore(tmp_path / "missing"))


class TestPlacing:
    async def test_images_above_the_limit_become_urls_in_their_order(self) -> None:
        store = Memory()
        images = [base64.b64encode(PNG + bytes([number])).decode() for number in range(20)]
        result = {"images": images, "seed": 3}
        moved = await stored(store, result)
        stem, _, _ = moved["images"][0].removeprefix("https://files.example/").rpartition("-")
        assert re.fullmatch(r"chat~7-2-[0-9a-f]{16}", stem)
        assert moved == {
            "images": [f"https://files.example/{stem}-{number}.png" for number in range(20)],
            "images_stored": True,
            "seed": 3,
        }
        assert store.files == {f"{stem}-{number}.png": PNG + bytes([number]) for number in range(20)}
        assert result == {"images": images, "seed": 3}
        assert 1 < store.most <= AT_ONCE

    async def test_an_id_that_comes_again_overwrites_nothing(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path)
        first = (await stored(store, {"images": [IMAGE]}))["images"][0]
        other = base64.b64encode(PNG + b"other").decode()
        second = (await stored(store, {"images": [other]}))["images"][0]
        assert first != second
        assert in_file(first) == PNG
        assert in_file(second) == PNG + b"other"

    async def test_images_up_to_the_limit_stay_inline_together(self) -> None:
        store = Memory()
        result = {"images": [IMAGE, IMAGE]}
        assert await stored(store, result, 2 * len(IMAGE)) is result
        assert not store.files
        assert (await stored(store, result, 2 * len(IMAGE) - 1))["images_stored"]

    @pytest.mark.parametrize("result", [{"text": "hello"}, {"images": []}])
    async def test_a_result_without_images_is_left_as_it_is(self, result: dict[str, Any]) -> None:
        assert await stored(Memory(), result) is result

    async def test_without_a_store_everything_stays_inline(self) -> None:
        result = {"images": [IMAGE]}
        assert await stored(None, result) is result

    async def test_a_large_image_arrives_as_it_was(self, tmp_path: Path) -> None:
        content = os.urandom(3 * 1024 * 1024 + 1)
        moved = await stored(FolderStore(tmp_path), {"images": [base64.b64encode(content).decode()]})
        assert in_file(moved["images"][0]) == content

    async def test_a_store_that_fails_costs_a_warning_and_no_image(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        result = {"images": [IMAGE, IMAGE], "warnings": ["the sampler is unknown"]}
        assert await stored(Memory(broken="1.png"), result) == {
            "images": [IMAGE, IMAGE],
            "warnings": ["the sampler is unknown", STAYED],
        }
        assert result["warnings"] == ["the sampler is unknown"]
        (line,) = caplog.messages
        assert line == "RESULT_STORE failed, images stay inline: the disk is full: make room"

    @pytest.mark.parametrize("error", [RuntimeError("a bug"), ExceptionGroup("many", [OSError("x")])])
    async def test_not_even_a_mistake_in_a_store_costs_an_image(self, error: Exception) -> None:
        assert await stored(Memory("png", error), {"images": [IMAGE]}) == {"images": [IMAGE], "warnings": [STAYED]}

    @pytest.mark.parametrize("image", ["no base64!", "QUJD\nREVG", "QQ==QUJD", "é", "QUJDR"])
    async def test_what_is_no_base64_stays_as_it_is(self, image: str) -> None:
        store = Memory()
        assert await stored(store, {"images": [image]}) == {"images": [image], "warnings": [STAYED]}
        assert not store.files

    async def test_a_real_failure_of_s3_is_logged_on_one_line(
        self, s3: S3Double, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        s3.failures = [403]
        assert await stored(S3Store(URL), {"images": [IMAGE]}) == {"images": [IMAGE], "warnings": [STAYED]}
        (line,) = caplog.messages
        assert "403" in line
        assert "RESULT_STORE" in line
        assert "s3:PutObject" in line
        assert "\n" not in line

    async def test_cancelling_is_passed_on(self, s3: S3Double) -> None:
        s3.stalls = True
        with anyio.move_on_after(0.2) as scope:
            await stored(S3Store(URL), {"images": [IMAGE]})
        assert scope.cancelled_caught
