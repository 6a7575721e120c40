from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.support.gguf_files import MODEL, PARAMETERS, gguf, write_split
from velesio_worker.engines.models import folder as models
from velesio_worker.engines.models.folder import ModelFolder
from velesio_worker.wire.errors import BadJobError


def put(path: Path, content: bytes = b"GGUF") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with models, in a folder with what no job may reach."""
    root = tmp_path / "models"
    put(root / "a.gguf")
    put(root / "b.gguf")
    put(root / "sub/c.gguf")
    put(root / ".hidden.gguf")
    put(root / ".cache/d.gguf")
    put(root / "mmproj-a.gguf")
    put(root / "MMPROJ-b.gguf")
    put(root / "e.gguf.part")
    put(root / "notes.txt")
    put(tmp_path / "outside.gguf")
    return root


@pytest.fixture
def folder(root: Path) -> ModelFolder:
    return ModelFolder(root)


def names(folder: ModelFolder) -> list[str]:
    return [path.relative_to(folder.folder).as_posix() for path in folder.files()]


def refusal(folder: ModelFolder, name: str) -> str:
    with pytest.raises(BadJobError) as caught:
        folder.find(name)
    return str(caught.value)


def test_models_are_listed_without_what_is_none(folder: ModelFolder) -> None:
    assert names(folder) == ["a.gguf", "b.gguf", "sub/c.gguf"]


def test_models_are_sought_three_folders_deep(folder: ModelFolder) -> None:
    put(folder.folder / "1/2/3/here.gguf")
    put(folder.folder / "1/2/3/4/too-deep.gguf")
    assert "1/2/3/here.gguf" in names(folder)
    assert "1/2/3/4/too-deep.gguf" not in names(folder)


def test_of_a_split_model_the_first_part_is_the_model(folder: ModelFolder) -> None:
    first = write_split(folder.folder, "big", 3)[0]
    assert [name for name in names(folder) if "big" in name] == ["big-00001-of-00003.gguf"]
    assert folder.find("big-00001-of-00003") == first
    assert "there is no model" in refusal(folder, "big-00002-of-00003")


def test_folders_that_link_to_those_above_them_are_not_walked_again(folder: ModelFolder) -> None:
    (folder.folder / "sub/up").symlink_to(folder.folder)
    (folder.folder / "self").symlink_to(folder.folder)
    (folder.folder / "circle.gguf").symlink_to(folder.folder / "circle.gguf")
    (folder.folder / "dangling.gguf").symlink_to(folder.folder / "nothing")
    assert names(folder) == ["a.gguf", "b.gguf", "sub/c.gguf"]


def test_what_the_operator_links_into_the_folder_is_a_model(folder: ModelFolder, tmp_path: Path) -> None:
    (folder.folder / "linked.gguf").symlink_to(tmp_path / "outside.gguf")
    put(tmp_path / "store/d.gguf")
    (folder.folder / "store").symlink_to(tmp_path / "store")
    assert folder.find("linked") == folder.folder / "linked.gguf"
    assert folder.find("store/d") == folder.folder / "store/d.gguf"


def test_a_folder_that_may_not_be_read_hides_only_its_own(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path.name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(models.os, "scandir", refusing)
    assert names(folder) == ["a.gguf", "b.gguf"]


def test_names_that_json_cannot_carry_are_left_out(folder: ModelFolder) -> None:
    try:
        put(folder.folder / os.fsdecode(b"\xff.gguf"))
        put(folder.folder / "two\nlines.gguf")
    except OSError:
        pytest.skip("this file system takes no such names")
    assert names(folder) == ["a.gguf", "b.gguf", "sub/c.gguf"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a", "a.gguf"),
        ("a.gguf", "a.gguf"),
        ("./a.gguf", "a.gguf"),
        ("sub/c", "sub/c.gguf"),
        ("sub/c.gguf", "sub/c.gguf"),
        ("sub//c.gguf", "sub/c.gguf"),
        ("c", "sub/c.gguf"),
        ("c.gguf", "sub/c.gguf"),
    ],
)
def test_a_model_is_found_by_its_name_or_path(folder: ModelFolder, name: str, file: str) -> None:
    assert folder.find(name) == folder.folder / file


def test_a_path_comes_before_another_folders_file_of_that_name(folder: ModelFolder) -> None:
    put(folder.folder / "sub/a.gguf")
    assert folder.find("a") == folder.folder / "a.gguf"


def test_a_name_that_two_files_have_is_refused_with_their_paths(folder: ModelFolder) -> None:
    put(folder.folder / "other/c.gguf")
    assert refusal(folder, "c") == "data.model: 'c' may be other/c.gguf, sub/c.gguf: give the path"


@pytest.mark.parametrize("name", ["A", "a.GGUF", "x", "sub", "sub/a", ".", "notes.txt", "a.gguf.gguf", "a/a.gguf", "*"])
def test_an_unknown_name_is_answered_with_those_there_are(folder: ModelFolder, name: str) -> None:
    assert refusal(folder, name) == (f"data.model: there is no model {name!r}; there are: a.gguf, b.gguf, sub/c.gguf")


@pytest.mark.parametrize(
    "name", [".hidden", ".hidden.gguf", ".cache/d.gguf", "mmproj-a", "MMPROJ-b.gguf", "e.gguf.part", "e.gguf", "d"]
)
def test_what_is_no_model_is_not_found(folder: ModelFolder, name: str) -> None:
    assert "there is no model" in refusal(folder, name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../outside.gguf",
        "..",
        "sub/../a.gguf",
        "sub/../../outside",
        "/etc/passwd",
        "//a.gguf",
        "a\0.gguf",
        "a\n",
        "a.gguf\n",
        "\ud800",
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused(folder: ModelFolder, name: str) -> None:
    text = refusal(folder, name)
    assert "is no name of a model" in text
    assert text.isprintable()


def test_the_absolute_path_of_a_model_in_the_folder_is_refused_as_well(folder: ModelFolder) -> None:
    assert "is no name of a model" in refusal(folder, str(folder.folder / "a.gguf"))


def test_long_names_and_many_models_are_told_in_short(folder: ModelFolder) -> None:
    for number in range(20):
        put(folder.folder / f"m{number:02}{'x' * 150}.gguf")
    text = refusal(folder, "n" * 100_000)
    assert text.endswith("(+15 more)")
    assert len(text) < 1500


def test_an_empty_and_a_missing_folder_say_so(tmp_path: Path) -> None:
    assert refusal(ModelFolder(tmp_path), "a").endswith("; there are none")
    missing = ModelFolder(tmp_path / "missing")
    assert refusal(missing, "a").endswith("its folder is not there")
    assert (missing.files(), missing.listing(None)) == ([], [])


@pytest.mark.parametrize("name", ["x", "/etc/passwd", "../x"])
def test_where_the_models_lie_is_for_the_log_alone(
    folder: ModelFolder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert str(folder.folder) not in refusal(folder, name)
    assert (str(folder.folder) in caplog.text) == (name == "x")


@pytest.mark.parametrize("odd", ["a\x1b[2J.gguf", "a\u202e.gguf", "a\u2028b.gguf", "a\x9b.gguf"])
def test_a_name_with_control_characters_is_no_models(folder: ModelFolder, odd: str) -> None:
    put(folder.folder / odd)
    assert folder.folder / odd not in folder.files()
    assert refusal(folder, odd).isprintable()


def test_the_listing_describes_each_model(tmp_path: Path) -> None:
    content = gguf()
    model = put(tmp_path / "sub/tiny.gguf", content)
    digest = hashlib.sha256(str(len(content)).encode() + content + content).hexdigest()
    assert ModelFolder(tmp_path).listing(model) == [
        {
            "name": "tiny",
            "filename": "sub/tiny.gguf",
            "hash": digest[:10],
            "size": len(content),
            "loaded": True,
            "architecture": "llama",
            "parameters": PARAMETERS,
            "context_length": 2048,
        }
    ]


def test_the_loaded_model_is_known_by_whatever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        put(tmp_path / f"{name}.gguf", gguf())
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for loaded in (Path("b.gguf"), tmp_path / "elsewhere/b.gguf"):
        assert [entry["loaded"] for entry in ModelFolder(tmp_path).listing(loaded)] == [False, True]
    assert not any(entry["loaded"] for entry in ModelFolder(tmp_path).listing(None))


def test_a_model_that_cannot_be_used_is_listed_with_why(tmp_path: Path) -> None:
    put(tmp_path / "cut.gguf", gguf()[:-1])
    put(tmp_path / "text.gguf", b"MIT License")
    cut, text = ModelFolder(tmp_path).listing(None)
    assert cut["error"].startswith("is cut off")
    assert "is no GGUF model" in text["error"]
    assert (text["size"], len(text["hash"])) == (11, 10)
    assert "architecture" not in text


def test_a_model_that_may_not_be_read_is_listed_with_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: Path) -> None:
        raise PermissionError(13, "Permission denied", path)

    put(tmp_path / "secret.gguf", gguf())
    monkeypatch.setattr(models, "read_gguf", refusing)
    (entry,) = ModelFolder(tmp_path).listing(None)
    assert entry["error"] == "cannot be read (Permission denied): check its permissions"
    assert entry["hash"] is None


def test_a_model_that_goes_away_meanwhile_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.gguf", gguf())
    folder = ModelFolder(tmp_path)
    there = [tmp_path / "a.gguf", tmp_path / "gone.gguf"]
    monkeypatch.setattr(folder, "files", lambda: there)
    assert [entry["name"] for entry in folder.listing(None)] == ["a"]


def test_hashes_differ_at_the_beginning_the_end_and_in_size(tmp_path: Path) -> None:
    content = bytes(3 * 1024 * 1024)
    put(tmp_path / "a.gguf", content)
    put(tmp_path / "b.gguf", b"\1" + content[1:])
    put(tmp_path / "c.gguf", content[1:] + b"\1")
    put(tmp_path / "d.gguf", content + b"\0")
    put(tmp_path / "e.gguf", content)
    hashes = [entry["hash"] for entry in ModelFolder(tmp_path).listing(None)]
    assert len(set(hashes)) == 4
    assert hashes[0] == hashes[4]


def test_a_model_is_read_again_only_when_its_file_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    read_gguf = models.read_gguf

    def counting(path: Path) -> object:
        read.append(path)
        return read_gguf(path)

    monkeypatch.setattr(models, "read_gguf", counting)
    folder = ModelFolder(tmp_path)
    model = put(tmp_path / "a.gguf", gguf())
    first = folder.listing(None)
    assert folder.listing(None) == first
    assert read == [model]
    put(model, gguf({**MODEL, "llama.context_length": 4096}))
    os.utime(model, ns=(0, 1))
    assert folder.listing(None)[0]["context_length"] == 4096
    assert read == [model, model]


def test_a_split_model_is_read_again_when_its_missing_part_has_come(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    parts = write_split(tmp_path, "big", 3)
    content = parts[2].read_bytes()
    parts[2].unlink()
    assert "big-00003-of-00003.gguf is missing" in folder.listing(None)[0]["error"]
    parts[2].write_bytes(content)
    (entry,) = folder.listing(None)
    assert (entry["parameters"], entry["size"]) == (3 * PARAMETERS, sum(part.stat().st_size for part in parts))
    parts[1].unlink()
    assert "big-00002-of-00003.gguf is missing" in folder.listing(None)[0]["error"]


def test_jobs_call_each_model_by_the_shortest_name_that_means_no_other(folder: ModelFolder) -> None:
    for place in ("red", "more/red", "more/green", "other/green", "deep/blue", "d"):
        put(folder.folder / f"{place}.gguf", gguf())
    names, more = folder.names(None, 100)
    assert {path.relative_to(folder.folder).as_posix(): name for path, name in names.items()} == {
        "red.gguf": "red",
        "more/red.gguf": "more/red",
        "more/green.gguf": "more/green",
        "other/green.gguf": "other/green",
        "deep/blue.gguf": "blue",
        "d.gguf": "d",
    }, "the others cannot be read"
    assert more == 0
    assert all(folder.find(name) == path for path, name in names.items())


def test_the_default_models_name_is_its_own(folder: ModelFolder) -> None:
    default, other = (put(folder.folder / f"{place}.gguf", gguf()) for place in ("more/red", "red"))
    names, _ = folder.names(default, 100)
    assert names == {default: "red", other: "red.gguf"}, "whoever says red gets the default"
    assert folder.find("red.gguf") == other


def test_of_many_models_the_first_are_named_and_the_rest_is_counted(folder: ModelFolder) -> None:
    for number in range(5):
        put(folder.folder / f"0{number}.gguf", gguf())
    names, more = folder.names(None, 3)
    assert (list(names.values()), more) == (["00", "01", "02"], 2 + 3)


def test_a_folder_that_is_not_there_has_no_names(tmp_path: Path) -> None:
    assert ModelFolder(tmp_path / "missing").names(None, 3) == ({}, 0)
