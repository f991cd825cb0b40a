"""The board over a directory, through starlette's test client and the command line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pytest
from commands import call

import shown
from rpg.board.pages import CURVE_POINTS, thinned
from rpg.board.view import Press
from rpg.reports.comparisons import read_comparison
from rpg.reports.together import together
from zoo.store import Zoo

pytest.importorskip("uvicorn", reason="the board needs uvicorn")
testclient = pytest.importorskip("starlette.testclient", reason="the board needs starlette")
from rpg.board.app import build_app, is_ours  # noqa: E402  # after the libraries are known to be there

GENERATED = "mine-gaussian-generated"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("board")
    (place / "secret.json").write_text('"secret"')
    return shown.make(place / "shown")


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of the directory to damage."""
    return Path(shutil.copytree(made, tmp_path / "shown"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their plots, which take most of the time, where something else is tested."""
    monkeypatch.setattr(Press, "draw", lambda press, make: "")


def client(place: Path) -> Any:
    return testclient.TestClient(build_app(place), base_url="http://127.0.0.1:8642", follow_redirects=False)


def links(text: str) -> list[str]:
    return [unescape(link) for link in re.findall(r'<a href="([^"]*)"', text)]


def test_every_link_of_every_page_resolves(made: Path) -> None:
    """From the first page on, all pages are visited; reports' own files too, whose links are relative. Of networks
    the first of each zoo is.
    """
    skipped = re.compile(r"/(network|generated)-0*[1-9]\d*(/|$)")
    board = client(made)
    seen, waiting = set(), ["/"]
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        answer = board.get(place)
        assert answer.status_code == 200, place
        if answer.headers["content-type"].startswith("text/html"):
            assert "cannot be shown" not in answer.text, place
            waiting += [urljoin(place, link) for link in links(answer.text) if not skipped.search(link)]
    kinds = {urlsplit(place).path.split("/")[1] for place in seen}
    assert kinds == {"", "zoos", "runs", "scores", "reports", "files", "curves", "methods"}
    tensors = [place for place in seen if "/tensor" in place]
    assert len(tensors) == 2 * len(shown.network(0))
    assert any(quote("../<b>&?#%2f head", safe="") in place for place in tensors)


def test_nothing_in_the_directory_changes(made: Path, undrawn: None) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in made.rglob("*")}

    before, board = state(), client(made)
    for address in ("/", "/curves", "/methods", "/zoos/mine", f"/reports/{GENERATED}"):
        assert board.get(address).status_code == 200
        assert board.post(address).status_code == 405
        assert board.delete(address).status_code == 405
    assert state() == before


def test_relatives_are_linked_in_both_directions(made: Path, undrawn: None) -> None:
    board = client(made)
    expected = {
        "/zoos/mine": {"/runs/mine-gaussian", "/runs/other", f"/zoos/{GENERATED}", f"/reports/{GENERATED}"},
        "/runs/mine-gaussian": {"/zoos/mine", f"/zoos/{GENERATED}"},
        f"/zoos/{GENERATED}": {"/zoos/mine", "/runs/mine-gaussian", f"/scores/{GENERATED}", f"/reports/{GENERATED}"},
        f"/scores/{GENERATED}": {f"/zoos/{GENERATED}"},
        f"/reports/{GENERATED}": {"/zoos/mine", f"/zoos/{GENERATED}"},
        "/reports/made-up": set(),
    }
    for place, relatives in expected.items():
        text = board.get(place).text
        part = text[text.index("Parents and children") :].partition("<h2>")[0]
        assert set(links(part)) == relatives, place


def test_a_parent_that_is_not_here_is_named_by_its_hash(place: Path, undrawn: None) -> None:
    parent = Zoo.open(place / "zoos" / "mine").sha256
    shutil.rmtree(place / "zoos" / "mine")
    text = client(place).get("/runs/mine-gaussian").text
    assert "not in this directory" in text
    assert parent[:12] in text


def test_a_copy_is_found_among_the_neighbours(place: Path) -> None:
    """The page of a generated network names the training network nearest to it, and how near."""
    generated, originals = Zoo.open(place / "zoos" / GENERATED), Zoo.open(place / "zoos" / "mine")

    def flat(network: dict[str, Any]) -> Any:
        return [float(x) for tensor in network.values() if tensor.is_floating_point() for x in tensor.reshape(-1)]

    mine = flat(generated[0])
    apart = {
        entry.id: sum((a - b) ** 2 for a, b in zip(mine, flat(originals.load(entry)), strict=True)) ** 0.5
        for entry in originals.entries
    }
    nearest = min(apart, key=lambda id: apart[id])
    text = client(place).get(f"/zoos/{GENERATED}/{generated.entries[0].id}").text
    part = text[text.index("which it was learnt from") :]
    first = re.search(r'<tr><th scope="row"[^>]*><a href="([^"]+)">.*?</th><td class="number">([\d.]+)</td>', part)
    assert first
    assert first[1] == f"/zoos/mine/{nearest}"
    assert float(first[2]) == pytest.approx(apart[nearest], abs=1e-3)


@pytest.mark.parametrize(
    "path",
    [
        "/zoos/..%2f..%2fsecret.json",
        "/zoos/..%2fsecret.json",
        "/zoos/%2e%2e/secret.json",
        "/zoos/..%5csecret.json",
        "/zoos/%00",
        "/zoos/" + "x" * 300,
        "/runs/..%2f..",
        "/reports/..%2fmade-up",
        "/files/..%2fsecret.json",
        "/files/reports/made-up/..%2f..%2f..%2fsecret.json",
        "/files/%2e%2e/secret.json",
        "/files//etc/passwd",
        "/files/reports/made-up/%00.json",
        "/files/reports/made-up/" + "x" * 300 + ".json",
        "/files/zoos/mine/index.parquet",
        "/files/runs/mine-gaussian/run.json",
        "/zoos/nothing",
        "/zoos/mine/nothing",
        "/zoos/mine/network-00000/tensor?name=nothing",
        "/zoos/mine/network-00000/tensor",
        "/runs/mine",
        "/curves?run=nothing",
        "/curves?run=..%2f..",
        "/nothing",
    ],
)
def test_what_is_not_there_is_404_and_nothing_outside_is_shown(made: Path, undrawn: None, path: str) -> None:
    answer = client(made).get(path)
    assert answer.status_code == 404
    assert '"secret"' not in answer.text
    assert "root:" not in answer.text


def test_links_out_of_the_directory_are_not_followed(place: Path) -> None:
    outside = place.parent / "outside"
    shutil.copytree(place / "zoos" / "mine", outside)
    (place / "zoos" / "linked").symlink_to(outside)
    (place.parent / "secret.json").write_text("secret")
    (place / "reports" / "made-up" / "linked.json").symlink_to(place.parent / "secret.json")
    (place / "zoos" / "loop").symlink_to("loop")
    board = client(place)
    assert "is a link out of the directory" in board.get("/zoos/linked").text
    assert "network-00000" not in board.get("/zoos/linked").text
    assert board.get("/files/zoos/linked/manifest.json").status_code == 404
    assert board.get("/files/reports/made-up/linked.json").status_code == 404
    assert board.get("/zoos/loop").status_code == 404


@pytest.mark.parametrize(
    ("file", "page", "said"),
    [
        ("zoos/mine/manifest.json", "/zoos/mine", "This zoo cannot be shown: "),
        ("runs/other/run.json", "/runs/other", "This run cannot be shown: "),
        (f"scores/{GENERATED}/scores.jsonl", f"/scores/{GENERATED}", "This scores cannot be shown: "),
        ("reports/made-up/report.json", "/reports/made-up", "This report cannot be shown: "),
        ("reports/tasks/report.json", "/reports/tasks", "This report cannot be shown: "),
        ("runs/other/metrics.jsonl", "/runs/other", "The losses are damaged"),
        ("runs/other/metrics.jsonl", "/curves", "The losses are damaged"),
        ("reports/made-up/report.json", "/methods", "made-up is left out"),
    ],
)
@pytest.mark.parametrize("content", ["{\n", '{"a": [1]}\n', "\0\n"])
def test_damage_is_shown_as_such(place: Path, undrawn: None, file: str, page: str, said: str, content: str) -> None:
    (place / file).write_text(content)
    board = client(place)
    answer = board.get(page)
    assert answer.status_code == 200
    assert said in answer.text
    assert "Traceback" not in answer.text
    for other in ("/", "/curves", "/methods", f"/zoos/{GENERATED}"):
        assert board.get(other).status_code == 200


def test_a_changed_checkpoint_is_found_when_it_is_looked_at(place: Path) -> None:
    (file,) = (place / "zoos" / "mine" / "checkpoints").iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    board = client(place)
    assert board.get("/zoos/mine").status_code == 200
    last = board.get(f"/zoos/mine/network-{shown.COUNT - 1:05d}/tensor", params={"name": "first.bias"}).text
    assert "is not the checkpoint of the manifest" in last
    file.unlink()
    assert "is missing" in board.get("/zoos/mine/network-00000/tensor", params={"name": "first.bias"}).text


def test_an_unfinished_zoo_is_called_that(place: Path) -> None:
    (place / "zoos" / "half").mkdir()
    (place / "zoos" / "half" / "journal.jsonl").touch()
    board = client(place)
    assert ">unfinished<" in board.get("/").text
    assert "half is not finished" in board.get("/zoos/half").text


def test_rows_are_filtered_by_all_words(made: Path) -> None:
    board = client(made)

    def names(query: str) -> list[str]:
        return re.findall(r'<th scope="row" title="([^"]*)"', board.get("/", params={"q": query}).text)

    assert len(names("")) == 8
    assert names("report") == ["made-up", GENERATED, "tasks"]
    assert names("GAUSSIAN run") == ["mine-gaussian"]
    assert names("nothing like this") == []
    hostile = board.get("/", params={"q": '"><script>alert(1)</script>'}).text
    assert "<script>alert" not in hostile


def test_curves_of_chosen_runs_are_drawn_together(made: Path) -> None:
    board = client(made)
    both, one = board.get("/curves").text, board.get("/curves?run=other").text
    assert "2 of 2 runs" in both
    assert "of mine-gaussian goes from 0.33 to 0.132 in 1000 steps; of other goes from 0.25 to" in both
    assert "1 of 2 runs" in one
    assert "of mine-gaussian goes" not in one


def test_thinned_curves_keep_their_mean() -> None:
    losses = [(step, float(step % 7)) for step in range(1, 3 * CURVE_POINTS + 1)]
    found = thinned(losses)
    assert len(found) == CURVE_POINTS
    assert sum(loss for _, loss in found) * 3 == pytest.approx(sum(loss for _, loss in losses))
    assert [step for step, _ in found[:2]] == [3, 6]
    assert thinned(losses[:5]) == losses[:5]


def test_reports_of_the_same_originals_are_one_table(made: Path) -> None:
    """Baselines that are the same networks stand once; generators by the names of their reports."""
    reports = [(name, read_comparison(made / "reports" / name)) for name in ("made-up", GENERATED)]
    (merged,) = together(reports)
    names = [group.name for group in merged.groups]
    assert len(names) == len(set(names)) == len(reports[0][1].groups) + 1
    assert {"made-up", GENERATED} <= set(names)
    other = reports[1][1].model_copy(update={"inputs": {"original": "others"}})
    assert len(together([reports[0], (GENERATED, other)])) == 2
    text = client(made).get("/methods").text
    assert text.count("<svg") == 1
    assert f"{GENERATED}: top1 9" in text


def test_policies_let_reports_of_others_read_nothing(made: Path) -> None:
    board = client(made)
    policy = board.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src 'self'" in policy
    report = board.get("/files/reports/made-up/report.html")
    assert report.headers["content-security-policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in report.headers["content-security-policy"]
    assert report.headers["x-content-type-options"] == "nosniff"
    assert report.content == (made / "reports" / "made-up" / "report.html").read_bytes()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8642", "localhost.evil", ""])
def test_another_host_is_refused(made: Path, undrawn: None, host: str) -> None:
    board = client(made)
    assert board.get("/", headers={"Host": host}).status_code == 421
    assert board.get("/files/reports/made-up/report.json", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    ("header", "host", "ours"),
    [
        ("127.0.0.1:8642", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost:8642", "127.0.0.1", True),
        ("LOCALHOST", "127.0.0.1", True),
        ("[::1]:8642", "::1", True),
        ("[::1]", "127.0.0.1", True),
        ("10.0.0.7:8642", "127.0.0.1", False),
        ("10.0.0.7:8642", "0.0.0.0", True),  # noqa: S104
        ("10.0.0.7", "10.0.0.7", True),
        ("box.lan:8642", "box.lan", True),
        ("box.lan:8642", "0.0.0.0", False),  # noqa: S104
        ("localhost", "10.0.0.7", False),
        ("evil.example", "127.0.0.1", False),
        (":8642", "127.0.0.1", False),
        ("127.0.0.1:evil.example", "127.0.0.1", False),
        ("127.0.0.1@evil.example", "127.0.0.1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_hosts(header: str, host: str, ours: bool) -> None:
    assert is_ours(header, host) == ours


def test_the_command_refuses_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on port {port} of 127.0.0.1" in call(f"rpg board --port {port}", code=2)
    assert "nowhere is no directory" in call("rpg board nowhere", code=2)
    assert "is no address" in call("rpg board --host no.such.host.invalid", code=2)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'rpg-zoo[board]'" in call("rpg board", code=3)


def test_the_command_says_where_it_is_and_ends_with_ctrl_c(made: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rpg", "board", str(made), "--port", "0", "--json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as board:
        assert board.stdout
        line = board.stdout.readline()
        found = re.fullmatch(r'\{"address": "http://127\.0\.0\.1:(\d+)/"\}\n', line)
        assert found, line
        with socket.create_connection(("127.0.0.1", int(found[1]))) as raw:
            raw.sendall(
                b"GET /files/reports/../../secret.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            assert raw.makefile("rb").readline() == b"HTTP/1.1 404 Not Found\r\n"
        board.send_signal(signal.SIGINT)
        _, err = board.communicate()
    assert (board.returncode, "Traceback" in err) == (0, False)
