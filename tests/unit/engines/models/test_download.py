from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from httpx._transports import default  # pyright: ignore[reportPrivateUsage]

from tests.doubles.file_server import MODIFIED, Answer, FileServer
from tests.support.tls import TLS
from tests.support.waiting import until
from velesio_worker.core.model_source import ModelSource
from velesio_worker.core.settings import Settings
from velesio_worker.engines.http import UnusableURLError, fetch
from velesio_worker.engines.models import part_file, transfer
from velesio_worker.engines.models.download import ModelDownloadError, download, fetch_missing
from velesio_worker.engines.models.part_file import Origin, PartFile
from velesio_worker.engines.models.transfer import retry_after

pytestmark = pytest.mark.anyio

MODEL = b"GGUF" + bytes(number * number % 251 for number in range(200_000))
OTHER = b"GGUF" + bytes(number * number % 241 for number in range(200_000))
SUM = hashlib.sha256(MODEL).hexdigest()
WRONG = "0" * 64
PATH = "/m.gguf"
FAR = "Thu, 01 Jan 2099 00:00:00 GMT"
LINKED = {"X-Linked-Etag": f'"{SUM}"'}

Seen = list[tuple[int, int | None]]
Get = Callable[..., Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    def shared_tls(**_: object) -> object:
        return TLS

    monkeypatch.setattr(default, "create_ssl_context", shared_tls)  # reading all certificates takes longer than a test
    monkeypatch.setattr(transfer, "RETRY_SECONDS", (0.001,) * 5)
    monkeypatch.setattr(part_file, "LOCK_POLL_SECONDS", 0.01)
    monkeypatch.setattr(part_file, "_WRITE_BYTES", 1)
    for name in ("HTTP_PROXY", "ALL_PROXY", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({PATH: MODEL}).serving() as serving:
        yield serving


@pytest.fixture
def store() -> Iterator[FileServer]:
    """Where the hub keeps large files: another server."""
    with FileServer({"/blob": MODEL}).serving() as serving:
        yield serving


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "m.gguf"


@pytest.fixture
def get(server: FileServer, target: Path) -> Get:
    """Download the server's model, with changes to where it comes from."""

    async def get(*, token: str | None = None, seen: Seen | None = None, **changes: Any) -> None:
        def note(done: int, total: int | None) -> None:
            if seen is not None:
                seen.append((done, total))

        source = replace(ModelSource(server.url + PATH, "m.gguf"), **changes)
        with anyio.fail_after(60):
            await download(source, target, token=token, on_progress=note)

    return get


def content(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


async def leave_a_part(server: FileServer, get: Get, size: int = 50_000, **changes: Any) -> None:
    """Break a download off after ``size`` bytes."""
    seen: Seen = []
    server.answers = [Answer(stall=size)]
    async with anyio.create_task_group() as group:

        async def start() -> None:
            await get(seen=seen, **changes)

        group.start_soon(start)
        await until(lambda: (size, len(MODEL)) in seen)
        group.cancel_scope.cancel()
    server.go_on.set()
    server.requests.clear()


async def test_a_model_is_downloaded_and_nothing_else_is_left(get: Get, target: Path) -> None:
    progress: Seen = []
    await get(seen=progress)
    assert content(target) == MODEL
    assert names(target) == ["m.gguf"]
    assert (progress[0], progress[-1]) == ((0, len(MODEL)), (len(MODEL), len(MODEL)))


async def test_a_model_that_is_there_is_not_downloaded_again(server: FileServer, get: Get, target: Path) -> None:
    put(target, OTHER)
    await get()
    await get(sha256=hashlib.sha256(OTHER).hexdigest())
    with pytest.raises(ModelDownloadError, match=f"expected is {SUM}") as caught:
        await get(sha256=SUM)
    assert "Remove it" in str(caught.value)
    assert (server.requests, content(target), names(target)) == ([], OTHER, ["m.gguf"])


async def test_a_connection_that_breaks_is_resumed_where_it_broke(server: FileServer, get: Get, target: Path) -> None:
    server.answers = [Answer(cut=50_000), Answer(cut=30_000)]
    await get(sha256=SUM)
    assert content(target) == MODEL
    assert server.asked("range") == [None, "bytes=50000-", "bytes=80000-"]
    assert server.asked("if-range") == [None, '"v1"', '"v1"']


@pytest.mark.parametrize("checksum", [SUM, None])
async def test_a_download_that_was_stopped_is_resumed(
    server: FileServer, get: Get, target: Path, checksum: str | None
) -> None:
    await leave_a_part(server, get)
    assert names(target) == ["m.gguf.part", "m.gguf.part.json"]
    progress: Seen = []
    await get(sha256=checksum, seen=progress)
    assert (content(target), names(target)) == (MODEL, ["m.gguf"])
    assert server.asked("range") == ["bytes=50000-"]
    assert progress[0] == (50_000, len(MODEL))


async def test_a_resumed_download_is_checked_as_a_whole(server: FileServer, get: Get, target: Path) -> None:
    await leave_a_part(server, get)
    part = target.with_name("m.gguf.part")
    part.write_bytes(OTHER[:50_000])
    with pytest.raises(ModelDownloadError, match=f"expected SHA-256 {SUM}, got"):
        await get(sha256=SUM)
    assert names(target) == []


async def test_a_server_without_ranges_sends_it_anew(server: FileServer, get: Get, target: Path) -> None:
    server.ranges = False
    server.answers = [Answer(cut=50_000)]
    await get()
    assert content(target) == MODEL
    assert server.asked("range") == [None, "bytes=50000-"]


@pytest.mark.parametrize("heeds", [True, False])
async def test_a_file_that_changed_is_downloaded_anew(
    server: FileServer, get: Get, target: Path, *, heeds: bool
) -> None:
    await leave_a_part(server, get)
    server.files[PATH], server.etag, server.if_range = OTHER, '"v2"', heeds
    await get()
    assert content(target) == OTHER


async def test_a_file_that_became_shorter_is_downloaded_anew(server: FileServer, get: Get, target: Path) -> None:
    await leave_a_part(server, get)
    server.files[PATH], server.if_range = OTHER[:40_000], False
    await get()
    assert content(target) == OTHER[:40_000]
    assert server.asked("range") == ["bytes=50000-", None]


async def test_what_cannot_be_told_from_another_file_is_not_resumed(server: FileServer, get: Get, target: Path) -> None:
    server.etag, server.modified = 'W/"v1"', None
    server.answers = [Answer(cut=50_000)]
    await get()
    assert content(target) == MODEL
    assert server.asked("range") == [None, None]


async def test_with_a_checksum_it_is_resumed_all_the_same(server: FileServer, get: Get, target: Path) -> None:
    server.etag = server.modified = None
    server.answers = [Answer(cut=50_000)]
    await get(sha256=SUM)
    assert content(target) == MODEL
    assert server.asked("range") == [None, "bytes=50000-"]


async def test_without_a_strong_etag_the_date_tells_whether_it_changed(server: FileServer, get: Get) -> None:
    server.etag = 'W/"v1"'
    server.answers = [Answer(cut=50_000)]
    await get()
    assert server.asked("if-range") == [None, MODIFIED]


@pytest.mark.parametrize("about", [None, b"", b"{}", b"[1]", b'{"url": 7}'])
async def test_a_part_of_nobody_knows_what_is_not_used(
    server: FileServer, get: Get, target: Path, about: bytes | None
) -> None:
    await leave_a_part(server, get)
    described = target.with_name("m.gguf.part.json")
    described.unlink() if about is None else described.write_bytes(about)
    await get()
    assert content(target) == MODEL
    assert server.asked("range") == [None]


async def test_a_part_of_another_file_is_not_used(server: FileServer, get: Get, target: Path) -> None:
    await leave_a_part(server, get)
    server.files["/n.gguf"] = OTHER
    await get(url=f"{server.url}/n.gguf")
    assert content(target) == OTHER
    assert server.asked("range") == [None]


async def test_a_whole_part_only_needs_its_place(server: FileServer, get: Get, target: Path) -> None:
    await leave_a_part(server, get)
    target.with_name("m.gguf.part").write_bytes(MODEL)
    await get(sha256=SUM)
    assert (content(target), server.requests) == (MODEL, [])


async def test_secrets_in_a_url_are_not_written_down(server: FileServer, get: Get, target: Path) -> None:
    url = f"http://me:hunter2@127.0.0.1:{server.port}{PATH}?sig=secret"
    await leave_a_part(server, get, url=url)
    about = json.loads(target.with_name("m.gguf.part.json").read_bytes())
    assert about == {"url": server.url + PATH, "validator": '"v1"', "total": len(MODEL), "sha256": None}
    server.always = Answer(404)
    with pytest.raises(ModelDownloadError) as caught:
        await get(url=url)
    assert str(caught.value) == f"{server.url}{PATH} does not exist (404): check the name"


async def test_a_length_that_is_not_said_is_no_obstacle(server: FileServer, get: Get, target: Path) -> None:
    server.length = False
    server.answers = [Answer(cut=50_000)]
    await get()
    assert content(target) == MODEL


async def test_an_encoded_answer_is_not_asked_for(server: FileServer, get: Get) -> None:
    await get()
    assert server.asked("accept-encoding") == ["identity"]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_asked_again(server: FileServer, get: Get, target: Path, status: int) -> None:
    server.answers = [Answer(status)] * 5
    await get()
    assert content(target) == MODEL


async def test_a_server_that_wants_a_pause_gets_it_within_limits(
    server: FileServer, get: Get, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transfer, "RETRY_AFTER_SECONDS", 0.25)
    server.answers = [Answer(503, {"Retry-After": "120"}), Answer(503)]
    began = time.monotonic()
    await get()
    assert time.monotonic() - began >= 0.25
    assert [record.getMessage() for record in caplog.records if "once more" in record.getMessage()] == [
        "the download broke off (it answers 503); once more in 0.25 s",
        "the download broke off (it answers 503); once more in 0.001 s",
    ]


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("7", 7, 7), ("0", 0, 0), ("", 0, 0), ("soon", 0, 0), ("-5", 0, 0), (MODIFIED, 0, 0), (FAR, 1e9, 1e10)],
)
def test_a_wish_for_a_pause_is_understood(value: str, least: float, most: float) -> None:
    assert least <= retry_after({"retry-after": value}) <= most


async def test_without_progress_it_is_given_up(server: FileServer, get: Get, target: Path) -> None:
    server.answers = [Answer(cut=50_000)]
    server.always = Answer(503)
    with pytest.raises(ModelDownloadError, match=r"it answers 503 \(6 times in a row\)") as caught:
        await get()
    assert "goes on from there" in str(caught.value)
    assert len(server.requests) == 6
    assert names(target) == ["m.gguf.part", "m.gguf.part.json"]


async def test_a_file_that_always_breaks_at_the_same_place_is_given_up(server: FileServer, get: Get) -> None:
    server.ranges, server.always = False, Answer(cut=50_000)
    with pytest.raises(ModelDownloadError, match="6 times in a row"):
        await get()


async def test_while_it_makes_progress_it_is_not_given_up(server: FileServer, get: Get, target: Path) -> None:
    server.always = Answer(cut=20_000)
    await get()
    assert content(target) == MODEL
    assert len(server.requests) == 11


async def test_nobody_there_is_told(get: Get, target: Path, free_url: str) -> None:
    with pytest.raises(ModelDownloadError, match=free_url):
        await get(url=free_url + PATH)
    assert names(target) == []


@pytest.mark.parametrize(
    ("status", "hub", "token", "words"),
    [
        (401, True, None, "wants a token: set HF_TOKEN"),
        (403, True, None, "wants a token: set HF_TOKEN"),
        (403, True, "hf_1", "refuses HF_TOKEN: ask for access on the model's page"),
        (401, False, None, r"refuses \(401\)"),
        (403, False, "hf_1", r"refuses \(403\)"),
        (404, True, None, "check the name"),
        (410, False, None, "answers 410"),
    ],
)
async def test_a_refusal_says_what_to_do_and_is_final(
    server: FileServer, get: Get, target: Path, *, status: int, hub: bool, token: str | None, words: str
) -> None:
    server.always = Answer(status)
    with pytest.raises(ModelDownloadError, match=words):
        await get(hub=hub, token=token)
    assert len(server.requests) == 1
    assert names(target) == []


async def test_the_hubs_checksum_is_checked_and_its_token_goes_to_no_other_host(
    server: FileServer, store: FileServer, get: Get, target: Path
) -> None:
    moved, found = Answer(307, {"Location": "/new"}), Answer(302, {"Location": f"{store.url}/blob"} | LINKED)
    server.answers = [moved, found, found]
    store.answers = [Answer(cut=50_000)]
    await get(hub=True, token="hf_1")
    assert content(target) == MODEL
    assert server.asked("authorization") == ["Bearer hf_1"] * 3
    assert store.asked("authorization") == [None, None]
    assert store.asked("range") == [None, "bytes=50000-"]


async def test_a_file_that_is_not_what_the_hub_says_is_removed(
    server: FileServer, store: FileServer, get: Get, target: Path
) -> None:
    store.files["/blob"] = OTHER
    server.always = Answer(302, {"Location": f"{store.url}/blob"} | LINKED)
    with pytest.raises(ModelDownloadError, match=f"expected SHA-256 {SUM}, got {hashlib.sha256(OTHER).hexdigest()}"):
        await get(hub=True)
    assert names(target) == []


async def test_a_hub_that_has_another_file_is_noticed_before_the_download(
    server: FileServer, store: FileServer, get: Get, target: Path
) -> None:
    server.always = Answer(302, {"Location": f"{store.url}/blob"} | LINKED)
    with pytest.raises(ModelDownloadError, match="the hub has another file"):
        await get(hub=True, sha256=WRONG)
    assert names(target) == []


@pytest.mark.parametrize("hub", [True, False])
async def test_only_the_hub_itself_is_asked_for_checksums(
    server: FileServer, store: FileServer, get: Get, target: Path, *, hub: bool
) -> None:
    store.extra = {"X-Linked-Etag": f'"{WRONG}"'}
    git_hash = {"X-Linked-Etag": '"3b18e512dba79e4c8300dd08aeb37f8e728b8dad"'}
    server.always = Answer(302, {"Location": f"{store.url}/blob"} | (git_hash if hub else store.extra))
    await get(hub=hub)
    assert content(target) == MODEL


async def test_the_token_is_for_the_hub_only(server: FileServer, get: Get) -> None:
    await get(token="hf_1")
    assert server.asked("authorization") == [None]


async def test_a_wrong_checksum_is_told_and_the_file_removed(get: Get, target: Path) -> None:
    with pytest.raises(ModelDownloadError, match=f"expected SHA-256 {WRONG}, got {SUM}"):
        await get(sha256=WRONG)
    assert names(target) == []


async def test_what_is_no_model_is_told_and_removed(server: FileServer, get: Get, target: Path) -> None:
    server.files[PATH] = b"<html>"
    with pytest.raises(ModelDownloadError, match="is no GGUF model"):
        await get()
    assert names(target) == []


async def test_two_at_once_download_once(server: FileServer, get: Get, target: Path) -> None:
    server.answers = [Answer(stall=50_000)]
    seen: Seen = []

    async def wait() -> None:
        await get(seen=seen)

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        await until(lambda: target.with_name("m.gguf.part").exists())
        group.start_soon(wait)
        await until(lambda: (50_000, len(MODEL)) in seen)
        server.go_on.set()
    assert content(target) == MODEL
    assert len(server.requests) == 1
    assert names(target) == ["m.gguf"]


async def test_many_at_once_download_once(server: FileServer, get: Get, target: Path) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(get)
    assert (len(server.requests), names(target)) == (1, ["m.gguf"])


async def test_who_waits_goes_on_where_another_stopped(server: FileServer, get: Get, target: Path) -> None:
    server.answers = [Answer(stall=50_000)]
    part = target.with_name("m.gguf.part")
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as first:

            async def wait() -> None:
                await until(lambda: part.exists() and part.stat().st_size == 50_000)
                group.start_soon(get)
                first.cancel()

            group.start_soon(wait)
            await get()
    assert content(target) == MODEL
    assert server.asked("range") == [None, "bytes=50000-"]


async def test_ctrl_c_in_the_middle_of_a_write_loses_nothing(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    class SlowHash:
        def update(self, _: object) -> None:
            writing.set()
            assert go_on.wait(30)

    def slow_hash() -> SlowHash:
        return SlowHash()

    async def write() -> None:
        async with PartFile(target) as part:
            await part.begin(Origin("http://host/m.gguf"))
            await part.add(MODEL)

    put(target.with_name("x"), b"")
    monkeypatch.setattr(hashlib, "sha256", slow_hash)
    task = asyncio.create_task(write())
    await until(writing.is_set)
    task.cancel()  # as asyncio does on SIGINT: no shield keeps this off
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert content(target.with_name("m.gguf.part")) == MODEL


async def test_a_full_disk_is_noticed_before_the_download(
    get: Get, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=transfer.ROOM_BYTES + len(MODEL) - 1)

    def full(_: object) -> object:
        return usage

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(
        ModelDownloadError, match=f"0.00 GiB more are needed in {target.parent}, where 0.06 GiB are free"
    ):
        await get()
    assert names(target) == []


async def test_room_is_only_needed_for_what_is_missing(
    server: FileServer, get: Get, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_a_part(server, get)
    usage = shutil.disk_usage("/")._replace(free=transfer.ROOM_BYTES + len(MODEL) - 50_000)

    def tight(_: object) -> object:
        return usage

    monkeypatch.setattr(shutil, "disk_usage", tight)
    await get()
    assert content(target) == MODEL


async def test_a_folder_that_cannot_be_is_told(get: Get, target: Path) -> None:
    target.parent.write_bytes(b"")
    with pytest.raises(ModelDownloadError, match=r"m\.gguf cannot be written or read .*MODEL_PATH"):
        await get()


async def test_a_folder_in_the_models_place_is_told(get: Get, target: Path) -> None:
    put(target / "x", b"")
    with pytest.raises(ModelDownloadError, match="is a folder: name a file in it"):
        await get()


@pytest.mark.parametrize("location", [PATH, "ftp://host/m.gguf", "http://[bad/m.gguf"])
async def test_a_redirect_to_nowhere_is_told(server: FileServer, get: Get, location: str) -> None:
    server.always = Answer(302, {"Location": location})
    with pytest.raises(ModelDownloadError, match=server.url):
        await get()


async def test_the_environments_proxy_is_used(
    server: FileServer, get: Get, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    server.files["http://models.example/m.gguf"] = MODEL
    await get(url="http://models.example/m.gguf")
    assert content(target) == MODEL


async def test_a_proxy_that_is_none_is_pointed_out(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
    with pytest.raises(ModelDownloadError, match="check HTTP_PROXY"):
        await get()


async def test_all_parts_of_a_split_model_are_downloaded_and_the_first_one_last(
    server: FileServer, tmp_path: Path
) -> None:
    first, second = (f"m-0000{number}-of-00002.gguf" for number in (1, 2))
    server.files = {f"/split/{first}": MODEL, f"/split/{second}": OTHER}
    source = ModelSource(f"{server.url}/split/{first}?x=1", first, SUM)
    seen: Seen = []
    fetch = partial(download, token=None, on_progress=lambda done, total: seen.append((done, total)))
    await fetch(source, tmp_path / f"n-{first}")
    assert (tmp_path / f"n-{first}").read_bytes() == MODEL
    assert (tmp_path / f"n-{second}").read_bytes() == OTHER
    assert [request.path for request in server.requests] == [f"/split/{second}?x=1", f"/split/{first}?x=1"]
    with pytest.raises(ModelDownloadError, match=r"has to end in -00001-of-00002\.gguf"):
        await fetch(source, tmp_path / "m.gguf")
    with pytest.raises(ModelDownloadError, match=f"name the first, {first}"):
        await fetch(ModelSource(f"{server.url}/split/{second}", second), tmp_path / second)


async def test_a_missing_model_is_fetched_and_the_log_tells(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("HF_TOKEN", "hf_1")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files = {"/o/r/resolve/main/x.gguf": MODEL}
    settings = Settings(model_url=f"hf:o/r/x.gguf#sha256={SUM}", model_path=target)
    await fetch_missing(settings)
    assert content(target) == MODEL
    assert server.asked("authorization") == ["Bearer hf_1"]
    actions = [record.__dict__.get("action") for record in caplog.records]
    assert {"model_download", "model_downloaded"} <= set(actions)
    assert len(actions) <= 14
    await fetch_missing(settings)
    assert len(server.requests) == 1


async def test_without_a_source_nothing_is_fetched(server: FileServer, target: Path) -> None:
    await fetch_missing(Settings(model_path=target))
    put(target, OTHER)
    await fetch_missing(Settings(model_path=target, model_url=server.url + PATH))
    assert (server.requests, content(target)) == ([], OTHER)


async def test_a_model_over_http_that_nobody_vouches_for_is_told_with_its_checksum(
    get: Get, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await get()
    assert f"#sha256={SUM}" in caplog.text
    caplog.clear()
    await anyio.Path(target).unlink()
    await get(sha256=SUM)
    assert "#sha256=" not in caplog.text


async def test_no_redirect_leads_from_https_to_http(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": "http://other/x.gguf"})

    client = partial(httpx.AsyncClient, transport=httpx.MockTransport(answer))
    monkeypatch.setattr(httpx, "AsyncClient", client)
    with pytest.raises(UnusableURLError, match="from https:// to http:// at other"):
        async with fetch("https://models/m.gguf", {}):
            pass
    assert asked == ["https://models/m.gguf"]
