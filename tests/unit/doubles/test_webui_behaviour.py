"""What the WebUI's double does that no single answer of the real program shows."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import http.client
import io
import json
import socket
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image

from tests.doubles.webui import Setup, WebUIDouble, sample_image
from tests.doubles.webui.client import Asking, ask, ask_raw, until
from tests.doubles.webui.fields import parse
from tests.doubles.webui.order import Order

CAT: Final = {"prompt": "a cat", "seed": 7, "steps": 4, "width": 64, "height": 64}
FAST: Final = Setup(step_seconds=0.001)
SKIP: Final = "?skip_current_image=true"


def make(double: WebUIDouble, **more: Any) -> Any:
    status, body = ask(double, "POST", "txt2img", CAT | more)
    assert status == 200, body
    return body


def info(body: Any) -> Any:
    return json.loads(body["info"])


def picture(body: Any, number: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(body["images"][number])))


def start(double: WebUIDouble, **more: Any) -> Asking:
    """A generation that has its turn and stands still."""
    double.pause()
    asking = Asking(double, "POST", "txt2img", CAT | more)
    until(lambda: double.running)
    return asking


def test_runs_one_generation_at_a_time_in_the_order_they_came(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with WebUIDouble(dataclasses.replace(FAST, journal=journal)) as double:
        askings = [start(double, prompt="0")]
        for number in range(1, 5):
            askings.append(Asking(double, "POST", "txt2img", CAT | {"prompt": str(number)}))
            until(lambda number=number: len(double.requests) > number and double.waiting == number)
        assert double.peak == 5
        double.go_on()
        for asking in askings:
            assert asking.answer()[0] == 200
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [one["prompt"] for one in events if one["event"] == "begun"] == ["0", "1", "2", "3", "4"]
    assert [one["at"] for one in events] == sorted(one["at"] for one in events)


def test_progress_and_interrupt_answer_at_once_while_something_runs() -> None:
    with WebUIDouble(FAST) as double:
        asking = start(double)
        assert ask(double, "GET", "progress")[1]["state"]["job"] == "scripts_txt2img"
        assert ask(double, "POST", "interrupt") == (200, {})
        assert (double.polls, double.interrupts) == (1, [True])
        double.go_on()
        asking.answer()


def test_an_interrupt_while_idle_is_lost() -> None:
    with WebUIDouble(FAST) as double:
        assert ask(double, "POST", "interrupt") == (200, {})
        body = make(double, n_iter=2)
    assert double.interrupts == [False]
    assert len(body["images"]) == 2


def test_an_interrupt_yields_one_half_done_picture_of_the_many_asked_for() -> None:
    with WebUIDouble(FAST) as double:
        whole = make(double, steps=200, n_iter=3)
        double.pause(at=20)
        asking = Asking(double, "POST", "txt2img", CAT | {"steps": 200, "n_iter": 3})
        until(lambda: double.paused)
        ask(double, "POST", "interrupt")
        double.go_on()
        body = asking.answer()[1]
    assert len(body["images"]) == 1
    assert info(body)["all_seeds"] == [7, 8, 9]
    assert body["images"][0] != whole["images"][0]


def test_a_client_that_leaves_stops_nothing() -> None:
    with WebUIDouble(FAST) as double:
        double.pause()
        connection = http.client.HTTPConnection("127.0.0.1", double.port)
        connection.request("POST", "/sdapi/v1/txt2img", json.dumps(CAT))
        until(lambda: double.running)
        connection.close()
        double.go_on()
        until(lambda: not double.running)
        assert double.made == [1]
        assert make(double)["images"]


def test_the_same_request_gives_the_same_pictures_and_another_seed_others() -> None:
    with WebUIDouble(FAST) as double:
        first, again = make(double, batch_size=2), make(double, batch_size=2)
        second = make(double, seed=8)
        others = [make(double, **change) for change in ({"prompt": "a dog"}, {"steps": 5}, {"sampler_name": "LMS"})]
    assert first["images"] == again["images"]
    assert picture(first, 1).tobytes() == picture(second).tobytes()
    assert len({picture(one).tobytes() for one in (first, second, *others)}) == 5


@pytest.mark.parametrize(("wanted", "real"), [((100, 64), (96, 64)), ((64, 72), (64, 72)), ((8, 8), (8, 8))])
def test_pictures_have_the_size_in_multiples_of_eight(wanted: tuple[int, int], real: tuple[int, int]) -> None:
    with WebUIDouble(FAST) as double:
        assert picture(make(double, width=wanted[0], height=wanted[1])).size == real


def test_high_resolution_multiplies_the_size() -> None:
    with WebUIDouble(FAST) as double:
        assert picture(make(double, enable_hr=True, hr_scale=2)).size == (128, 128)


def test_names_of_samplers_and_schedulers_that_it_corrects_are_in_its_log() -> None:
    with WebUIDouble(FAST) as double:
        make(double, sampler_name="Euler a", scheduler="Automatic")
        make(double, sampler_name="DPM++ 2M", scheduler="SGM Uniform")
        assert double.log == []
        make(double, sampler_name="Euler a")
        make(double, sampler_name="k_euler_a", scheduler="karras")
        assert double.log == [
            'Sampler Scheduler autocorrection: "Euler a" -> "Euler a", "None" -> "Automatic"',
            'Sampler Scheduler autocorrection: "k_euler_a" -> "Euler a", "karras" -> "Karras"',
        ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"enable_hr": True, "hr_upscaler": "x"}, "could not find upscaler named x"),
        ({"enable_hr": True, "hr_checkpoint_name": "x"}, "Could not find checkpoint with name x"),
        ({"enable_hr": True, "hr_sampler_name": "x"}, "bad sampler name: x"),
        ({"refiner_checkpoint": "x"}, "Could not find checkpoint with name x"),
    ],
)
def test_names_that_are_not_there_fail(more: dict[str, Any], said: str) -> None:
    with WebUIDouble(FAST) as double:
        status, body = ask(double, "POST", "txt2img", CAT | more)
        assert (status, body["errors"]) == (500, said)


def test_a_style_that_is_not_there_is_left_out() -> None:
    with WebUIDouble(dataclasses.replace(FAST, styles=(("Noir", "black and white"),))) as double:
        assert info(make(double, styles=["Noir", "x"]))["prompt"] == "a cat, black and white"


def test_as_many_pictures_are_made_at_once_as_images_were_sent() -> None:
    with WebUIDouble(FAST) as double:
        two = {"init_images": [sample_image()] * 2, "batch_size": 3}
        status, body = ask(double, "POST", "img2img", CAT | two)
        assert (status, len(body["images"]), len(info(body)["all_seeds"])) == (200, 2, 3)


def test_scripts_put_grids_before_their_pictures_and_count_them_or_not() -> None:
    with WebUIDouble(FAST) as double:
        plot = make(double, script_name="X/Y/Z plot", script_args=[4, "1,2"])
        assert (len(plot["images"]), info(plot)["index_of_first_image"]) == (1, 1)
        looped = {"init_images": [sample_image()], "script_name": "Loopback", "script_args": [3]}
        _, body = ask(double, "POST", "img2img", CAT | looped)
        assert [picture(body, number).size for number in range(4)] == [(192, 64), *[(64, 64)] * 3]
        assert info(body)["index_of_first_image"] == 0


def test_a_prompt_of_many_brackets_takes_its_time() -> None:
    few, many = (Order(parse("txt2img", {"prompt": "(" * count})).parsing for count in (400, 3000))
    assert few < 1
    assert many > 60


def test_a_grid_stands_first_only_where_pictures_are_saved() -> None:
    with WebUIDouble(FAST) as double:
        plain, saved = make(double, batch_size=2), make(double, batch_size=2, save_images=True)
    assert [info(one)["index_of_first_image"] for one in (plain, saved)] == [0, 1]
    assert [picture(saved, number).size for number in range(3)] == [(128, 64), (64, 64), (64, 64)]


def test_pictures_from_an_image_depend_on_it() -> None:
    with WebUIDouble(FAST) as double:
        images = [sample_image(), sample_image(colour="green")]
        bodies = [ask(double, "POST", "img2img", CAT | {"init_images": [one]})[1] for one in images]
    assert bodies[0]["images"] != bodies[1]["images"]
    assert bodies[0]["parameters"]["init_images"] is None


def test_addresses_are_noted_and_never_fetched() -> None:
    with WebUIDouble(FAST) as double:
        status, body = ask(double, "POST", "img2img", CAT | {"init_images": ["https://example.invalid/a.png"]})
    assert status == 500
    assert body["detail"] == "Request to local resource not allowed"
    assert double.fetched == ["https://example.invalid/a.png"]


def test_a_setting_of_one_request_leaks_into_the_next() -> None:
    with WebUIDouble(FAST) as double:
        assert info(make(double, override_settings={"CLIP_stop_at_last_layers": 2}))["clip_skip"] == 2
        assert info(make(double))["clip_skip"] == 2


def test_a_setting_that_was_set_through_options_is_restored() -> None:
    with WebUIDouble(FAST) as double:
        ask(double, "POST", "options", {"CLIP_stop_at_last_layers": 1})
        assert info(make(double, override_settings={"CLIP_stop_at_last_layers": 2}))["clip_skip"] == 2
        assert info(make(double))["clip_skip"] == 1


def test_a_request_with_restoring_costs_two_loads_and_one_without_it_one() -> None:
    with WebUIDouble(FAST) as double:
        override = {"override_settings": {"sd_model_checkpoint": "tinyB"}}
        names = [info(one)["sd_model_name"] for one in (make(double, **override), make(double))]
        assert (names, double.loads) == (["tinyB", "tinyA"], ["tinyA", "tinyB", "tinyA"])
        for more in (override | {"override_settings_restore_afterwards": False}, {}):
            assert info(make(double, **more))["sd_model_name"] == "tinyB"
        assert double.loads == ["tinyA", "tinyB", "tinyA", "tinyB"]


def test_options_load_a_model_after_what_runs_and_before_they_answer() -> None:
    with WebUIDouble(FAST) as double:
        running = start(double)
        setting = Asking(double, "POST", "options", {"sd_model_checkpoint": "tinyB"})
        until(lambda: double.waiting == 1)
        assert ask(double, "POST", "options", {}) == (200, None)
        assert double.loads == ["tinyA"]
        double.go_on()
        assert info(running.answer()[1])["sd_model_name"] == "tinyA"
        assert setting.answer() == (200, None)
        assert double.loads == ["tinyA", "tinyB"]
        assert ask(double, "GET", "options")[1]["sd_model_checkpoint"] == "tinyB.safetensors"
    assert double.asked("options") == [{"sd_model_checkpoint": "tinyB"}, {}]


def test_without_its_model_on_the_device_a_generation_fails_until_it_is_back() -> None:
    with WebUIDouble(FAST) as double:
        ask(double, "POST", "unload-checkpoint")
        status, body = ask(double, "POST", "txt2img", CAT)
        assert (status, body["error"]) == (500, "RuntimeError")
        assert "same device" in body["errors"]
        ask(double, "POST", "reload-checkpoint")
        assert make(double)["images"]


@pytest.mark.parametrize(("step", "shown"), [(9, False), (10, True), (15, True)])
def test_previews_come_after_ten_steps_and_only_on_request(step: int, shown: bool) -> None:  # noqa: FBT001 (a case)
    with WebUIDouble(FAST) as double:
        double.pause(at=step)
        asking = Asking(double, "POST", "txt2img", CAT | {"steps": 20})
        until(lambda: double.paused)
        images = [ask(double, "GET", f"progress{query}")[1]["current_image"] for query in ("", SKIP)]
        double.go_on()
        asking.answer()
    assert [image is not None for image in images] == [shown, False]


def test_out_of_memory_is_told_once_and_names_its_class() -> None:
    with WebUIDouble(FAST) as double:
        double.fail_next("OutOfMemoryError")
        status, body = ask(double, "POST", "txt2img", CAT)
        assert (status, body["error"]) == (500, "OutOfMemoryError")
        assert not double.running
        assert make(double)["images"]


def test_a_dropped_answer_closes_the_connection() -> None:
    with WebUIDouble(FAST) as double:
        double.fail_next("drop")
        with pytest.raises(http.client.RemoteDisconnected):
            ask(double, "POST", "txt2img", CAT)


def test_a_generation_that_hangs_ends_with_the_double() -> None:
    with WebUIDouble(FAST) as double:
        double.fail_next("hang")
        client = socket.create_connection(("127.0.0.1", double.port))
        content = json.dumps(CAT).encode()
        client.sendall(b"POST /sdapi/v1/txt2img HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
        until(lambda: double.running)
    assert not double.running
    assert client.recv(1) == b""
    client.close()


def test_large_answers_are_gzipped_where_that_is_accepted() -> None:
    with WebUIDouble(FAST) as double:
        headers, content = ask_raw(double, "GET", "samplers", headers={"Accept-Encoding": "gzip"})[1:]
        assert headers["content-encoding"] == "gzip"
        assert json.loads(gzip.decompress(content)) == ask(double, "GET", "samplers")[1]
        assert "content-encoding" not in ask_raw(double, "GET", "samplers", headers={"Accept-Encoding": "identity"})[1]


def test_a_route_asked_in_another_way_is_405_and_an_unknown_one_404() -> None:
    with WebUIDouble(FAST) as double:
        assert ask(double, "GET", "txt2img") == (405, {"detail": "Method Not Allowed"})
        assert ask(double, "GET", "no-such-route") == (404, {"detail": "Not Found"})


def test_missing_routes_answer_404_and_options_still_can_be_read() -> None:
    missing = frozenset({"progress", "interrupt", "options", "memory", "loras", "info"})
    with WebUIDouble(dataclasses.replace(FAST, missing=missing)) as double:
        assert ask(double, "GET", "progress")[0] == ask(double, "POST", "interrupt")[0] == 404
        assert ask(double, "GET", "memory")[0] == ask(double, "GET", "loras")[0] == 404
        assert [ask(double, method, "options", {})[0] for method in ("GET", "POST")] == [200, 404]
        assert make(double)["info"] == ""


def test_a_title_changes_once_the_hash_is_known_and_both_names_are_understood() -> None:
    with WebUIDouble(dataclasses.replace(FAST, hashing=True)) as double:
        loaded, other = ask(double, "GET", "sd-models")[1]
        assert loaded["title"] == f"tinyA.safetensors [{loaded['hash']}]"
        assert (other["title"], other["hash"]) == ("tinyB.safetensors", None)
        assert ask(double, "POST", "options", {"sd_model_checkpoint": loaded["title"]}) == (200, None)
    assert double.loads == ["tinyA"]


def test_checkpoints_of_a_folder_are_listed_and_new_ones_after_a_refresh(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(b"1")
    with WebUIDouble(dataclasses.replace(FAST, ckpt_dir=tmp_path)) as double:
        (tmp_path / "two.ckpt").write_bytes(b"2")
        assert [one["model_name"] for one in ask(double, "GET", "sd-models")[1]] == ["one"]
        ask(double, "POST", "refresh-checkpoints")
        assert [one["model_name"] for one in ask(double, "GET", "sd-models")[1]] == ["one", "two"]
