"""`rpg-zoo fetch` from a loopback server: made-up data sets in the real layouts, through every fault, and read by the
classes that train on them.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import coco_data
import numpy as np
import pytest
from commands import call, run
from PIL import Image
from web_server import WebFile, WebServer, web

from evaluators.questions import SETS, compose
from killing import Killed, check_kills, content
from zoo.data import coco
from zoo.data.ade20k import FOLDER, _pairs, read_labels
from zoo.data.instructions import load_questions, load_training
from zoo.errors import Corrupt, Failed, MissingData
from zoo.fetch import archives, command, sets
from zoo.fetch.download import Digest, Remote, download, part_path
from zoo.fetch.pieces import ArchivePiece, FilePiece, HubPiece

BYTES = bytes(range(256)) * 700
COUNTS = {"images/training/*.jpg": 3, "images/validation/*.jpg": 1, "annotations/training/*.png": 3}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with web(monkeypatch) as made:
        yield made


def sha256(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest(), "the test")


def published(server: WebServer, data: bytes = BYTES, path: str = "/a/data.zip") -> tuple[Remote, WebFile]:
    url, file = server.add(path, data)
    return Remote(url, len(data), digest=sha256(data)), file


def zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def ade20k() -> dict[str, bytes]:
    """Scenes as the challenge's archive has them."""
    rng, found = np.random.default_rng(0), {}
    for split, count in (("training", 3), ("validation", 1)):
        for i in range(count):
            labels = rng.integers(0, 151, (9, 12)).astype(np.uint8)
            for kind, form, pixels in (("images", "JPEG", np.stack([labels] * 3, 2)), ("annotations", "PNG", labels)):
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, form)
                ending = "jpg" if form == "JPEG" else "png"
                found[f"{FOLDER}/{kind}/{split}/ADE_{split}_{i}.{ending}"] = file.getvalue()
    return found


def scenes(server: WebServer, files: dict[str, bytes] | None = None) -> tuple[ArchivePiece, WebFile]:
    remote, file = published(server, zipped(files or ade20k()), "/ADEChallengeData2016.zip")
    return ArchivePiece(FOLDER, remote, COUNTS, unpacked=1000), file


def offered(monkeypatch: pytest.MonkeyPatch, name: str, *pieces: Any) -> None:
    known = sets.sets()
    monkeypatch.setattr(sets, "sets", lambda: known | {name: replace(known[name], pieces=pieces)})


# One file


def test_a_file_comes_whole_and_alone(server: WebServer, tmp_path: Path) -> None:
    remote, _ = published(server)
    download(remote, tmp_path / "new" / "x")
    assert content(tmp_path) == {"new/x": BYTES}


def test_broken_connections_are_continued_where_they_broke(server: WebServer, tmp_path: Path) -> None:
    remote, file = published(server)
    file.drops, file.statuses = [1000, 50_000, 3], [503]
    download(remote, tmp_path / "x")
    assert content(tmp_path) == {"x": BYTES}
    assert [asked for _, asked in server.asked] == ["", "", "bytes=1000-", "bytes=51000-", "bytes=51003-"]
    assert server.sent == len(BYTES) + len(b"nothing")


@pytest.mark.parametrize("fault", ["ranges", "versioned", "length"])
def test_servers_that_do_not_continue_or_say_what_they_have(server: WebServer, tmp_path: Path, fault: str) -> None:
    remote, file = published(server)
    setattr(file, fault, False)
    file.drops = [70_000] if fault != "length" else []
    download(remote, tmp_path / "x")
    assert content(tmp_path) == {"x": BYTES}
    assert server.sent == len(BYTES) + sum([70_000] if fault != "length" else [])


@pytest.mark.parametrize("matching", [True, False])
def test_a_file_that_changes_between_attempts_is_not_mixed(server: WebServer, tmp_path: Path, matching: bool) -> None:
    url, file = server.add("/x", BYTES)
    file.drops, file.matching, other = [90_000], matching, BYTES[::-1]
    calls = iter(range(9))

    def change() -> None:
        if next(calls) == 1:
            file.data = other

    file.before = change
    download(Remote(url, len(BYTES)), tmp_path / "x")  # with nothing but sizes, which are equal, to check
    assert content(tmp_path) == {"x": other}


def test_more_than_the_server_has_begins_anew(server: WebServer, tmp_path: Path) -> None:
    remote, file = published(server)
    file.drops = [5000] + [0] * 5
    with pytest.raises(Failed):
        download(remote, tmp_path / "x")
    with part_path(tmp_path / "x").open("ab") as part:
        part.write(BYTES)  # nobody but a hand does this
    download(remote, tmp_path / "x")
    assert content(tmp_path) == {"x": BYTES}


def test_a_connection_that_stays_lost_is_one_line_and_keeps_what_came(server: WebServer, tmp_path: Path) -> None:
    remote, file = published(server)
    file.drops = [40_000] + [0] * 20
    with pytest.raises(
        Failed, match=r"cannot be reached, or not for long .*; 40,000 bytes of it are kept. Look at the"
    ):
        download(remote, tmp_path / "x")
    assert set(content(tmp_path)) == {"x.part", "x.part.jsonl"}
    file.drops.clear()
    server.asked.clear()
    download(remote, tmp_path / "x")
    assert content(tmp_path) == {"x": BYTES}
    assert server.asked == [("/a/data.zip", "bytes=40000-")]


def test_no_server_no_file_and_offline_are_said(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, _ = published(server)
    with pytest.raises(Failed, match=r"^http://127\.0\.0\.1:1/x cannot be reached"):
        download(Remote("http://127.0.0.1:1/x", 1), tmp_path / "x")
    with pytest.raises(MissingData, match=r"/nowhere answers 404; it may have moved: get the file from elsewhere and"):
        download(replace(remote, url=f"{server.endpoint}/nowhere"), tmp_path / "x")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingData, match="HF_HUB_OFFLINE is set; unset it to download"):
        download(remote, tmp_path / "x")
    assert content(tmp_path) == {}


def test_another_file_is_refused_and_gone(server: WebServer, tmp_path: Path) -> None:
    remote, file = published(server)
    file.data = BYTES[:-1] + b"!"
    with pytest.raises(
        Corrupt, match=r"is another file: it is not sha256 [0-9a-f]{12}\.\.\. \(the test\); it was removed"
    ):
        download(remote, tmp_path / "x")
    assert content(tmp_path) == {}
    file.data = BYTES + b"!"
    with pytest.raises(Corrupt, match=r"has 179,201 bytes, expected 179,200: what is published there has changed"):
        download(remote, tmp_path / "x")
    assert content(tmp_path) == {}


def test_bytes_that_rot_in_the_part_are_noticed(server: WebServer, tmp_path: Path) -> None:
    remote, file = published(server)
    file.drops = [40_000] + [0] * 5
    with pytest.raises(Failed):
        download(remote, tmp_path / "x")
    part_path(tmp_path / "x").write_bytes(b"?" + BYTES[1:40_000])
    with pytest.raises(Corrupt, match="it was removed"):
        download(remote, tmp_path / "x")
    download(remote, tmp_path / "x")
    assert content(tmp_path) == {"x": BYTES}


def test_a_digest_of_git_is_gits() -> None:
    made = Path(__file__)
    expected = hashlib.sha1(b"blob %d\0" % made.stat().st_size + made.read_bytes()).hexdigest()  # noqa: S324
    assert Digest("git", expected, "").fits(made)
    assert not Digest("git", sha256(made.read_bytes()).value, "").fits(made)


def test_a_kill_at_any_moment_loses_nothing(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.fetch.download.BLOCK", 4096)
    monkeypatch.setattr("zoo.fetch.download.SYNCED", 40_000)
    piece, _ = scenes(server, ade20k() | {f"{FOLDER}/noise.bin": np.random.default_rng(0).bytes(150_000)})
    piece.get(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    assert len(expected) == 9
    assert check_kills(lambda path: piece.look(path).state == "there" or piece.get(path), tmp_path, expected) > 8


# Archives


def killed_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    real, calls = archives._extract, iter(range(10**6))

    def extract(*given: Any) -> None:
        if next(calls) == count:
            given[2].parent.mkdir(parents=True, exist_ok=True)
            given[2].write_bytes(b"half")
            raise Killed
        real(*given)

    monkeypatch.setattr(archives, "_extract", extract)


@pytest.mark.parametrize("count", [0, 4, 7])
def test_half_unpacked_does_not_look_complete(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    piece, _ = scenes(server)
    with monkeypatch.context() as patch:
        killed_after(patch, count)
        with pytest.raises(Killed):
            piece.get(tmp_path)
    assert not (tmp_path / FOLDER).exists()
    found = piece.look(tmp_path)
    assert (found.state, found.download) == ("begun", 0)
    server.asked.clear()
    piece.get(tmp_path)
    assert server.asked == []
    assert content(tmp_path) == ade20k()
    assert piece.look(tmp_path).state == "there"


@pytest.mark.parametrize("name", ["../out", "/out", f"{FOLDER}/../../out", "a\\..\\out", "c:out", "a\nb"])
def test_no_name_leaves_the_directory(server: WebServer, tmp_path: Path, name: str) -> None:
    piece, _ = scenes(server, ade20k() | {name: b"evil"})
    with pytest.raises(Corrupt, match=r"which is a link or leaves its directory; it was removed, run the same command"):
        piece.get(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_a_link_in_an_archive_is_refused(server: WebServer, tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        link = zipfile.ZipInfo(f"{FOLDER}/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    remote, _ = published(server, made.getvalue())
    with pytest.raises(Corrupt, match="which is a link"):
        ArchivePiece(FOLDER, remote, COUNTS, 1).get(tmp_path)


def test_without_a_checksum_the_archives_own_are_checked(server: WebServer, tmp_path: Path) -> None:
    data = bytearray(zipped(ade20k()))
    data[200] ^= 1
    url, file = server.add("/ADEChallengeData2016.zip", bytes(data))
    piece = ArchivePiece(FOLDER, Remote(url, len(data)), COUNTS, 1)
    assert "nobody states a checksum" in piece.checked_by
    with pytest.raises(Corrupt, match=r"is damaged, or no zip archive: .*; it was removed, run the same command again"):
        piece.get(tmp_path)
    assert not (tmp_path / FOLDER).exists()
    file.data = zipped(ade20k())
    piece.get(tmp_path)
    assert content(tmp_path) == ade20k()


def test_archives_of_something_else_are_refused(server: WebServer, tmp_path: Path) -> None:
    files = ade20k()
    del files[f"{FOLDER}/images/training/ADE_training_1.jpg"]
    piece, _ = scenes(server, files)
    with pytest.raises(Corrupt, match=r"is not the expected archive: it has 2 of 3 images/training/\*\.jpg"):
        piece.get(tmp_path)
    piece, _ = scenes(server, {"other/x": b"1"})
    with pytest.raises(Corrupt, match=f"has nothing in {FOLDER}/"):
        piece.get(tmp_path)
    remote, _ = published(server, b"<html>", "/ADEChallengeData2016.zip")
    with pytest.raises(Corrupt, match="is damaged, or no zip archive"):
        ArchivePiece(FOLDER, remote, COUNTS, 1).get(tmp_path)


def test_an_archive_that_the_user_has_is_used_and_stays(server: WebServer, tmp_path: Path) -> None:
    piece, file = scenes(server)
    own = tmp_path / "ADEChallengeData2016.zip"
    own.write_bytes(file.data)
    piece.get(tmp_path)
    assert server.asked == []
    assert content(tmp_path) == ade20k() | {own.name: file.data}
    shutil.rmtree(tmp_path / FOLDER)
    own.write_bytes(file.data + b"!")
    with pytest.raises(
        Corrupt, match=r"is another archive than .*: it has [\d,]+ bytes, expected [\d,]+; move it away"
    ):
        piece.get(tmp_path)
    assert own.is_file()


# The command


def test_ade20k_is_fetched_and_read(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piece, _ = scenes(server)
    offered(monkeypatch, "ade20k", piece)
    planned = json.loads(call(f"rpg-zoo fetch ade20k {tmp_path}/data --dry-run --json"))
    assert not planned["complete"]
    assert [(p["place"], p["state"]) for p in planned["pieces"]] == [(FOLDER, "missing")]
    assert "non-commercial" in planned["terms"]
    assert not (tmp_path / "data").exists()
    assert server.asked == []

    assert f"ade20k is whole: --data-root {tmp_path}/data" in call(f"rpg-zoo fetch ade20k {tmp_path}/data")
    pairs = _pairs(tmp_path / "data" / FOLDER, "training")
    assert [image.name for image, _ in pairs] == [f"ADE_training_{i}.jpg" for i in range(3)]
    assert read_labels(pairs[0][1]).shape == (9, 12)

    server.asked.clear()
    assert json.loads(call(f"rpg-zoo fetch ade20k {tmp_path}/data --json"))["complete"]
    assert server.asked == []
    (tmp_path / "data" / FOLDER / "images/training/ADE_training_1.jpg").unlink()
    assert "differs (it has 2 of 3" in call(f"rpg-zoo fetch ade20k {tmp_path}/data --dry-run")
    line = call(f"rpg-zoo fetch ade20k {tmp_path}/data", code=2)
    assert "is there, but not as http://127" in line
    assert "move it away and run the same command again" in line


def test_coco_is_fetched_and_read(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = content(coco_data.write(tmp_path / "made") / "coco")
    pieces = []
    for place, holds in (
        ("annotations", {"instances_*.json": 2}),
        ("val2017", {"*.jpg": 4}),
        ("train2017", {"*.jpg": 10}),
    ):
        data = zipped({name: content for name, content in made.items() if name.startswith(place)})
        remote, _ = published(server, data, f"/{place}.zip")
        pieces.append(ArchivePiece(f"coco/{place}", remote, holds, 1000))
    offered(monkeypatch, "coco", *pieces)
    server.files["/val2017.zip"].drops = [100]
    call(f"rpg-zoo fetch coco {tmp_path}/data")
    assert content(tmp_path / "data" / "coco") == made
    coco.check_layout(tmp_path / "data")
    assert len(coco.read(tmp_path / "data", "train", 2).images) == 10


def test_question_sets_are_fetched_and_read(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = compose("arc_e", "Which?", ("a", "b", "c"), 1)
    rows = json.dumps([{"instruction": question.instruction, "answer": question.word}]).encode()
    texts = json.dumps([{"instruction": "Do.", "input": "", "output": "Done.", "answer": ""}]).encode()
    folder = f"commonsense/{SETS['arc_e'].folder}"
    remote, _ = published(server, rows, "/test.json")
    training, _ = published(server, texts, "/commonsense_170k.json")
    pieces = (FilePiece(f"{folder}/test.json", remote), FilePiece("commonsense/commonsense_170k.json", training))
    offered(monkeypatch, "commonsense", *pieces)
    call(f"rpg-zoo fetch commonsense {tmp_path}")
    assert load_questions("arc_e", tmp_path, None)[0].choices == ("a", "b", "c")
    assert load_training(tmp_path)[0]["output"] == "Done."
    (tmp_path / folder / "test.json").write_bytes(rows + b" ")
    assert "is there, but not as" in call(f"rpg-zoo fetch commonsense {tmp_path}", code=2)


def test_imagenet_in_folders_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (known,) = sets.data_set("imagenet").pieces
    assert isinstance(known, HubPiece)
    offered(monkeypatch, "imagenet", replace(known, instead={"imagenet/train/n*": 2}))
    for name in ("n01", "n02"):
        assert not json.loads(call(f"rpg-zoo fetch imagenet {tmp_path} --dry-run --json"))["complete"]
        (tmp_path / "imagenet/train" / name).mkdir(parents=True)
    assert json.loads(call(f"rpg-zoo fetch imagenet {tmp_path} --json"))["complete"]


def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: WebServer) -> None:
    assert "no data set is called 'coc'; did you mean coco?" in call(f"rpg-zoo fetch coc {tmp_path}", code=2)
    (tmp_path / "file").touch()
    assert "is a file; expected a directory" in call(f"rpg-zoo fetch coco {tmp_path}/file", code=2)
    piece, _ = scenes(server)
    offered(monkeypatch, "ade20k", replace(piece, unpacked=10**18))
    line = call(f"rpg-zoo fetch ade20k {tmp_path}/data", code=1)
    assert "has room for" in line
    assert "ade20k takes 1000000000.0 GB; make room or choose another place" in line
    assert server.asked == []
    offered(monkeypatch, "ade20k", replace(piece, remote=replace(piece.remote, url="http://127.0.0.1:1/a.zip")))
    assert run(f"rpg-zoo fetch ade20k {tmp_path}/data")[0] == 1
    assert not (tmp_path / "data" / FOLDER).exists()


def test_room_is_the_most_that_is_needed_at_any_time() -> None:
    found = [command_found(5, 7), command_found(1, 0), command_found(10, 12)]
    assert command.room(found) == 7 + 1 + 10 + 12
    assert command.room([command_found(30, 1), command_found(2, 3)]) == 31


def command_found(download: int, unpacked: int) -> Any:
    from zoo.fetch.pieces import Found

    return Found("missing", "", download, unpacked)


def test_the_table_is_of_what_the_data_classes_read() -> None:
    """Every place is one that the layouts name, and no digest is cut."""
    known = sets.sets()
    places = {name: {piece.place for piece in one.pieces} for name, one in known.items()}
    assert places["ade20k"] == {FOLDER}
    assert places["coco"] == {f"coco/{folder}" for folder in (*coco.FOLDERS.values(), "annotations")}
    assert places["commonsense"] == {f"commonsense/{one.folder}/test.json" for one in SETS.values()} | {
        "commonsense/commonsense_170k.json"
    }
    for one in known.values():
        for piece in one.pieces:
            if isinstance(piece, FilePiece | ArchivePiece):
                digest = piece.remote.digest
                assert digest
                assert len(digest.value) == {"sha256": 64, "git": 40}[digest.algorithm]
