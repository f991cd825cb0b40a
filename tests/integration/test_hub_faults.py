"""Publishing and pulling when things go wrong: nothing lost, nothing half-published, one line, and the same command
goes on.
"""

import os
import shutil
import signal
from importlib.util import find_spec

import pytest
from hub_client import complete, head, make_zoo, serving, using
from hub_server import PART

from killing import content

both = pytest.mark.parametrize("server", ["lfs", "xet"], indirect=True)
SOON = {"Retry-After": "0"}


@pytest.fixture
def server(request, tmp_path_factory):
    place = None
    if getattr(request, "param", "lfs") == "xet":
        pytest.importorskip("hf_xet")
        place = tmp_path_factory.mktemp("xet")
    with serving(place) as made:
        yield made


@pytest.fixture
def client(server, tmp_path):
    with using(server, tmp_path) as made:
        yield made


def on(server, method, path, **fault):
    return pytest.param(server, {"method": method, "path": path, **fault}, id=f"{server}-{method}-{path}")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def seldom(*args, **fault):
    """`on`, for what is much like another case."""
    return pytest.param(*on(*args, **fault).values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        on("lfs", "POST", "/preupload/", status=429, headers={"Retry-After": "7"}),
        seldom("lfs", "POST", "/repos/create", status=500),
        seldom("lfs", "POST", "/objects/batch", status=503, headers=SOON),
        seldom("lfs", "PUT", "/storage/", status=500),
        on("lfs", "PUT", "/storage/", drop=1000),
        seldom("lfs", "POST", "/commit/", status=500, headers=SOON),
        seldom("lfs", "POST", "/commit/", drop=10),
        seldom("lfs", "POST", "/commit/", lost=True),
        seldom("lfs", "POST", "/tag/", lost=True),
        on("xet", "GET", "/xet-write-token/", status=429, headers=SOON),
        seldom("xet", "GET", "/xet-write-token/", status=500),
        seldom("xet", "GET", "/xet-write-token/", lost=True),
        on("xet", "POST", "/commit/", lost=True),
    ],
    indirect=["server"],
)
def test_push_outlives_passing_faults(client, server, tmp_path, fault):
    struck = server.fault(**fault)
    client.ok("rpg-zoo push zoo user/zoo")
    assert struck.times == 0
    complete(server, tmp_path)
    if fault.get("headers") == {"Retry-After": "7"}:
        assert max(client.waited()) >= 7


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        on("lfs", "HEAD", "stack-00000", status=500, headers=SOON),
        seldom("lfs", "HEAD", "stack-00000", status=429, headers={"Retry-After": "7"}),
        seldom("lfs", "HEAD", "stack-00000", lost=True),
        seldom("lfs", "GET", "/storage/", status=503),
        on("lfs", "GET", "/storage/", drop=5000),
        seldom("lfs", "GET", "/resolve/.*manifest.json", drop=100),
        seldom("xet", "GET", "/xet-read-token/", status=500),
        seldom("xet", "GET", "/xet-read-token/", status=429, headers=SOON),
    ],
    indirect=["server"],
)
def test_pull_outlives_passing_faults(client, server, tmp_path, fault):
    client.ok("rpg-zoo push zoo user/zoo")
    struck = server.fault(**fault)
    client.ok("rpg-zoo pull user/zoo --out back")
    assert struck.times == 0
    assert content(tmp_path / "back") == content(tmp_path / "zoo")


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        seldom("lfs", "PUT", "/storage/", status=500, times=1000),
        on("lfs", "POST", "/commit/", drop=10, times=1000),
        seldom("xet", "GET", "/xet-write-token/", status=500, times=1000),
    ],
    indirect=["server"],
)
def test_push_gives_up_and_goes_on_later(client, server, tmp_path, fault):
    server.fault(**fault)
    client.fails("rpg-zoo push zoo user/zoo", 1, "same command")
    assert sum(client.waited()) < 600
    server.faults.clear()
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)


@pytest.mark.parametrize(
    "fault", [{"drop": 1000}, slow({"lost": True}), slow({"status": 500}), slow({"status": 503, "times": 30})], ids=str
)
def test_large_files_go_in_parts(client, server, tmp_path, fault):
    """A file of several parts and others in several commits; a part is lost half-way."""
    shutil.rmtree(tmp_path / "zoo")
    make_zoo(tmp_path / "zoo", values=12_000)
    size = (tmp_path / "zoo/checkpoints/stack-00000.safetensors").stat().st_size
    parts = -(-size // PART)
    assert parts > 3
    server.fault("PUT", "/storage/.*/3", **fault)
    options = {"zoo__hub__client__COMMIT_FILES": 1}
    if fault.get("times"):
        client.fails("rpg-zoo push zoo user/zoo", 1, "same command", **options)
        server.faults.clear()
    seen = len(server.log)
    client.ok("rpg-zoo push zoo user/zoo", **options)
    complete(server, tmp_path)
    put = [line for line in server.log[seen:] if line.startswith("PUT") and line.count("/") == 3]
    assert len(put) == parts + (0 if fault.get("times") else 1)  # only the lost part is sent again
    assert len(server.repos["datasets/user/zoo"].commits) == 5  # empty, stack, index, card, manifest


def test_parallel_edits_are_noticed(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    repo = server.repos["datasets/user/zoo"]
    repo.commit({name: data for name, data in head(server).items() if name not in ("index.parquet", "manifest.json")})
    server.fault("POST", "/commit/", before=lambda: repo.commit(head(server)))
    client.fails("rpg-zoo push zoo user/zoo", 1, "somebody else", "same command")
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)


@pytest.mark.slow
def test_a_repository_that_changes_while_it_is_pulled(client, server, tmp_path):
    """What is pulled is the version that was begun with, also by a second attempt."""
    client.ok("rpg-zoo push zoo user/zoo")
    (tmp_path / "zoo").rename(tmp_path / "old")
    make_zoo(tmp_path / "zoo", seed=1)
    server.fault("HEAD", "stack-00000", status=403, headers={"X-Error-Code": "GatedRepo"})
    client.fails("rpg-zoo pull user/zoo --out back", 4, "gated")
    client.ok("rpg-zoo push zoo user/zoo")
    client.ok("rpg-zoo pull user/zoo --out back")
    assert content(tmp_path / "back") == content(tmp_path / "old")
    client.fails("rpg-zoo pull user/zoo --out back", 2, "--out")
    client.ok("rpg-zoo pull user/zoo --out new")
    assert content(tmp_path / "new") == content(tmp_path / "zoo")


@pytest.mark.parametrize("server", ["lfs", slow("xet")], indirect=True)
def test_refusals_are_one_line(client, server, tmp_path):
    client.fails("rpg-zoo pull user/nothing", 4, "user/nothing")
    client.fails("rpg-zoo push zoo nonsense", 2, "nonsense", "user/name")
    client.ok("rpg-zoo push zoo user/zoo")
    client.fails("rpg-zoo ls hf://user/zoo@v9", 4, "v9", "revision")
    server.fault("HEAD", "manifest.json", status=403, times=9, headers={"X-Error-Code": "GatedRepo"})
    client.fails("rpg-zoo pull user/zoo --out x", 4, "gated", "hf auth login")
    server.faults.clear()
    client.environment["HF_TOKEN"] = "hf_expired"  # noqa: S105
    client.fails("rpg-zoo push zoo user/zoo", 4, "hf auth login")
    client.fails("rpg-zoo pull user/zoo --out x", 4, "hf auth login")
    client.environment["HF_HUB_OFFLINE"] = "1"
    client.fails("rpg-zoo ls hf://user/zoo", 4, "HF_HUB_OFFLINE")
    client.fails("rpg-zoo push zoo user/zoo", 4, "HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        seldom("lfs", "POST", "/objects/batch", status=401, times=1000),
        on("lfs", "POST", "/commit/", status=401, times=1000),
        seldom("lfs", "POST", "/commit/", status=403, times=1000),
        on("xet", "GET", "/xet-write-token/", status=401, times=1000),
        seldom("xet", "GET", "/xet-write-token/", status=403, times=1000),
    ],
    indirect=["server"],
)
def test_a_token_that_expires_on_the_way(client, server, tmp_path, fault):
    server.fault(**fault)
    client.fails("rpg-zoo push zoo user/zoo", 4, "hf auth login")
    assert not any("manifest.json" in files for _, files in server.repos["datasets/user/zoo"].commits)
    server.faults.clear()
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)


@pytest.mark.slow
@both
def test_a_token_that_expires_during_a_pull(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    server.fault("GET", "/xet-read-token/" if server.xet else "/storage/", status=401, times=1000)
    client.fails("rpg-zoo pull user/zoo --out back", 4, "hf auth login")
    assert not (tmp_path / "back/manifest.json").exists()
    server.faults.clear()
    client.ok("rpg-zoo pull user/zoo --out back")
    assert content(tmp_path / "back") == content(tmp_path / "zoo")


@pytest.mark.parametrize(
    "path", [slow("/repos/create"), slow("/revision/"), slow("/preupload/"), slow("/objects/batch"), "/commit/"]
)
def test_answers_that_are_not_the_hubs(client, server, tmp_path, path):
    """Such as the page of a proxy."""
    server.fault("GET" if "revision" in path else "POST", path, status=200, page=b"<html>Log in</html>", times=1000)
    client.fails("rpg-zoo push zoo user/zoo", 1, "not understood")
    server.faults.clear()
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)


def test_no_hub(client):
    client.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    client.fails("rpg-zoo pull user/zoo", 1, "connection", "same command")
    client.fails("rpg-zoo push zoo user/zoo", 1, "connection", "same command")


@pytest.mark.skipif(find_spec("socksio") is not None, reason="socksio is installed")
def test_a_proxy_that_speaks_socks_needs_a_library(client):
    client.environment |= {"ALL_PROXY": "socks5h://127.0.0.1:9", "HTTPS_PROXY": "socks5h://127.0.0.1:9"}
    client.fails("rpg-zoo pull user/zoo", 3, "speaks SOCKS", "pip install socksio")


@pytest.mark.parametrize(
    ("server", "moment"),
    [
        ("lfs", "PUT /storage"),
        slow("lfs", "POST .*/commit/"),
        slow("lfs", "POST .*/tag/"),
        slow("xet", "GET .*/xet-write-token"),
        ("xet", "POST .*/commit/"),
    ],
    indirect=["server"],
)
def test_a_killed_push_continues(client, server, tmp_path, moment):
    """SIGKILL when the server has got this request: the same command completes, sending nothing that had arrived."""
    method, path = moment.split()
    process = client.start("rpg-zoo", "push", "zoo", "user/zoo")
    server.fault(method, path, before=lambda: os.kill(process, signal.SIGKILL))
    assert client.wait(process)[0] == -signal.SIGKILL
    arrived = set(server.objects)
    seen = len(server.log)
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)
    assert [line for line in server.log[seen:] if line.startswith("PUT") and line.split("/")[2] in arrived] == []


@pytest.mark.parametrize(
    ("server", "path"),
    [slow("lfs", "manifest.json"), ("lfs", "/storage/"), slow("xet", "/xet-read-token/")],
    indirect=["server"],
)
def test_a_killed_pull_continues(client, server, tmp_path, path):
    client.ok("rpg-zoo push zoo user/zoo")
    process = client.start("rpg-zoo", "pull", "user/zoo", "--out", "back")
    server.fault("GET", path, before=lambda: os.kill(process, signal.SIGKILL))
    assert client.wait(process)[0] == -signal.SIGKILL
    assert not (tmp_path / "back/manifest.json").exists()
    client.ok("rpg-zoo pull user/zoo --out back")
    assert content(tmp_path / "back") == content(tmp_path / "zoo")


@both
@pytest.mark.parametrize("room", [slow(1000), 20_000])
def test_pull_to_a_full_disk(client, server, tmp_path, room):
    """No file may grow beyond `room` bytes: the kernel's refusal, in Python and in hf_xet."""
    client.ok("rpg-zoo push zoo user/zoo")
    client.fails("rpg-zoo pull user/zoo --out back", 1, "room", "same command", limit=room)
    assert not (tmp_path / "back/manifest.json").exists()
    client.ok("rpg-zoo pull user/zoo --out back")
    assert content(tmp_path / "back") == content(tmp_path / "zoo")


@pytest.mark.parametrize("server", ["lfs", slow("xet")], indirect=True)
def test_push_from_a_full_disk(client, server, tmp_path):
    client.fails("rpg-zoo push zoo user/zoo", 1, "room", "same command", limit=1000)
    assert all("manifest.json" not in files for repo in server.repos.values() for _, files in repo.commits)
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)
