"""Publishing and pulling against a loopback Hub: nothing lost, nothing half-published, one line for every failure."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from hub_server import TOKEN, HubServer
from huggingface_hub import DatasetCard, ModelCard

from zoo.checkpoint import content_hash, load_tensors
from zoo.recipe import load_recipe
from zoo.store import Zoo, ZooWriter
from zoo.structure import Structure

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).parent / "tiny.yaml"
MAIN = "import sys; sys.argv[0] = sys.argv.pop(1); import {0}.cli; {0}.cli.main()"
ORIGIN = load_recipe("digits").origin("collected", ("rpg-zoo", "collect", "digits"))


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def make_zoo(path, count=6, values=2000, seed=0):
    """A zoo with a stack of several parts, two splits and an unseen seed."""
    generator = torch.Generator().manual_seed(seed)
    nets = [
        {"w": torch.randn(values, generator=generator), "b": torch.randn(3, generator=generator)} for _ in range(count)
    ]
    with ZooWriter(path, ORIGIN, Structure.of(nets[0])) as writer:
        for i, net in enumerate(nets):
            writer.add(f"net-{i}", net, seed=i, split="unseen" if i % 3 == 0 else "train")
        return writer.finish()


class Client:
    """Runs commands as processes against a server, as a user with a token would."""

    def __init__(self, server, place):
        self.server, self.place = server, place
        self.printed = ""
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(place / "hf"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, command):
        program, *rest = command.split()
        module = "zoo" if program == "rpg-zoo" else "rpg"
        argv = [sys.executable, "-c", MAIN.format(module), program, *rest]
        return subprocess.Popen(
            argv, cwd=self.place, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, command):
        process = self.start(command)
        out, err = process.communicate(timeout=120)
        self.printed += out + err
        return process.returncode, out, err

    def ok(self, command):
        code, out, err = self(f"{command} --json")
        assert code == 0, err
        return json.loads(out)

    def fails(self, command, code, *words):
        found, out, err = self(command)
        assert (found, out) == (code, ""), (found, out, err)
        lines = [line for line in err.splitlines() if line.startswith(("rpg:", "rpg-zoo:"))]
        assert len(lines) == 1, err
        assert "Traceback" not in err
        assert [word for word in words if word not in lines[0]] == [], lines[0]


@pytest.fixture
def server():
    made = HubServer()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def client(server, tmp_path):
    make_zoo(tmp_path / "zoo")
    made = Client(server, tmp_path)
    yield made
    assert TOKEN not in made.printed
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    pushed = [data for repo in server.repos.values() for _, files in repo.commits for data in files.values()]
    assert not any(TOKEN.encode() in data for data in pushed)


def content(path):
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def head(server, name="datasets/user/zoo"):
    return server.repos[name].commits[-1][1]


def run_code(client, code):
    """What another program that uses huggingface_hub prints."""
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=client.place, env=client.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def complete(server, place):
    """The repository holds the zoo, and every commit with a manifest holds all that the manifest names."""
    assert {name: data for name, data in head(server).items() if name != "README.md"} == content(place / "zoo")
    for _, files in server.repos["datasets/user/zoo"].commits:
        if "manifest.json" in files:
            listed = json.loads(files["manifest.json"])["files"]
            assert all(hashlib.sha256(files[name]).hexdigest() == record["sha256"] for name, record in listed.items())


def test_push_pull_read(client, server, tmp_path):
    planned = client.ok("rpg-zoo push zoo user/zoo --dry-run")
    assert planned["files"]["manifest.json"] == (tmp_path / "zoo/manifest.json").stat().st_size
    assert server.log == []
    pushed = client.ok("rpg-zoo push zoo user/zoo --private")
    assert server.repos["datasets/user/zoo"].private
    assert set(planned["files"]) == set(head(server))
    complete(server, tmp_path)
    commits = [set(files) for _, files in server.repos["datasets/user/zoo"].commits]
    assert commits[-1] - commits[-2] == {"manifest.json"}
    assert server.repos["datasets/user/zoo"].tags == {pushed["tag"]: pushed["commit"]}

    before, count = server.received, len(commits)
    assert before > 0
    again = client.ok("rpg-zoo push zoo user/zoo")
    assert (again["uploaded"], again["bytes"], again["commit"]) == (0, 0, pushed["commit"])
    assert (server.received, len(server.repos["datasets/user/zoo"].commits)) == (before, count)

    client.ok("rpg-zoo pull user/zoo")
    assert content(tmp_path / "zoos/zoo") == content(tmp_path / "zoo")
    sent = server.sent
    client.ok("rpg-zoo pull user/zoo")
    assert server.sent - sent < 1000  # small files at most
    client.ok("rpg-zoo verify hf://user/zoo")


@pytest.mark.slow
def test_a_selection_is_a_zoo(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    whole = Zoo.open(tmp_path / "zoo")
    client.ok("rpg-zoo pull user/zoo --select split==unseen --out part")
    part = Zoo.open(tmp_path / "part")
    assert list(part.problems()) == []
    assert [(e.id, e.sha256) for e in part.entries] == [(e.id, e.sha256) for e in whole.entries if e.split == "unseen"]
    assert part.manifest.origin.parents == (whole.sha256,)
    client.ok("rpg-zoo pull user/zoo --id net-4 --out one")
    assert [entry.id for entry in Zoo.open(tmp_path / "one").entries] == ["net-4"]
    client.fails("rpg-zoo pull user/zoo --select split==none --out x", 2, "nothing", "split==none")
    client.fails("rpg-zoo pull user/zoo --select __class__==x --out x", 2, "__class__")
    client.fails("rpg-zoo pull user/zoo --id nobody --out x", 2, "nobody")
    client.fails("rpg-zoo pull user/zoo --out part", 2, "part", "--out")


@pytest.mark.slow
def test_a_new_version_replaces_the_old(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    server.repos["datasets/user/zoo"].commit(head(server) | {"notes.txt": b"mine"})
    shutil.rmtree(tmp_path / "zoo")
    make_zoo(tmp_path / "zoo", count=3, seed=1)
    client.ok("rpg-zoo push zoo user/zoo")
    assert head(server)["notes.txt"] == b"mine"
    del head(server)["notes.txt"]
    complete(server, tmp_path)
    assert len(server.repos["datasets/user/zoo"].tags) == 2


@pytest.mark.parametrize(
    "fault",
    [
        slow({"method": "POST", "path": "/preupload/", "status": 429, "headers": {"Retry-After": "1"}}),
        slow({"method": "POST", "path": "/commit/", "status": 500, "headers": {"Retry-After": "0"}}),
        {"method": "PUT", "path": "/storage/", "drop": 1000},
        slow({"method": "POST", "path": "/objects/batch", "status": 503, "headers": {"Retry-After": "0"}}),
    ],
)
def test_push_outlives_passing_faults(client, server, tmp_path, fault):
    struck = server.fault(**fault)
    client.ok("rpg-zoo push zoo user/zoo")
    assert struck.times == 0
    complete(server, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"method": "HEAD", "path": "stack-00000", "status": 500, "headers": {"Retry-After": "0"}},
        {"method": "HEAD", "path": "stack-00000", "status": 429, "headers": {"Retry-After": "1"}},
        {"method": "GET", "path": "/storage/", "drop": 5000},
        {"method": "GET", "path": "/resolve/.*manifest.json", "drop": 100},
    ],
)
def test_pull_outlives_passing_faults(client, server, tmp_path, fault):
    client.ok("rpg-zoo push zoo user/zoo")
    struck = server.fault(**fault)
    client.ok("rpg-zoo pull user/zoo --out back")
    assert struck.times == 0
    assert content(tmp_path / "back") == content(tmp_path / "zoo")


def test_parallel_edits_are_noticed(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    repo = server.repos["datasets/user/zoo"]
    repo.commit({name: data for name, data in head(server).items() if name not in ("index.parquet", "manifest.json")})
    server.fault("POST", "/commit/", before=lambda: repo.commit(head(server)))
    client.fails("rpg-zoo push zoo user/zoo", 1, "somebody else", "same command")
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)


@pytest.mark.slow
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


def test_a_licence_is_needed(client, tmp_path):
    origin = load_recipe("cifar10-cnn-small").origin("collected", ("rpg-zoo", "collect"))
    with ZooWriter(tmp_path / "other", origin, Structure.of({"w": torch.zeros(2)})) as writer:
        writer.add("a", {"w": torch.zeros(2)}, seed=0, split="train")
        writer.finish()
    client.fails("rpg-zoo push other user/other --dry-run", 2, "cifar10", "--license")
    assert "license: mit" in client.ok("rpg-zoo card other --license mit")["card"]


@pytest.mark.parametrize("moment", ["PUT /storage", slow("POST .*/commit/"), slow("POST .*/tag/")])
def test_a_killed_push_continues(client, server, tmp_path, moment):
    """SIGKILL when the server has got this request: the same command completes, sending nothing that had arrived."""
    method, path = moment.split()
    process = client.start("rpg-zoo push zoo user/zoo")
    server.fault(method, path, before=lambda: os.kill(process.pid, signal.SIGKILL))
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    arrived = set(server.objects)
    seen = len(server.log)
    client.ok("rpg-zoo push zoo user/zoo")
    complete(server, tmp_path)
    assert [line for line in server.log[seen:] if line.startswith("PUT") and line.split("/")[2] in arrived] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", ["manifest.json", "/storage/"])
def test_a_killed_pull_continues(client, server, tmp_path, path):
    client.ok("rpg-zoo push zoo user/zoo")
    process = client.start("rpg-zoo pull user/zoo --out back")
    server.fault("GET", path, before=lambda: os.kill(process.pid, signal.SIGKILL))
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert not (tmp_path / "back/manifest.json").exists()
    client.ok("rpg-zoo pull user/zoo --out back")
    assert content(tmp_path / "back") == content(tmp_path / "zoo")


@pytest.mark.slow
def test_a_generator_makes_the_same_networks_from_the_hub(client, server, tmp_path):
    client.ok(f"rpg-zoo collect {TINY}")
    client.ok(f"rpg train {TINY}")
    pushed = client.ok("rpg push tiny user/generator")
    published = head(server, "models/user/generator")
    assert "tokens.npy" not in published
    assert published["trained.json"] == (tmp_path / "runs/tiny/trained.json").read_bytes()
    client.ok("rpg generate hf://user/generator --out there")
    client.ok("rpg generate tiny --out here")
    here, there = Zoo.open(tmp_path / "here"), Zoo.open(tmp_path / "there")
    assert [entry.sha256 for entry in there.entries] == [entry.sha256 for entry in here.entries]
    assert there.manifest.origin.parents == here.manifest.origin.parents
    again = client.ok("rpg push tiny user/generator")
    assert (again["uploaded"], again["commit"]) == (0, pushed["commit"])
    card = ModelCard(published["README.md"].decode(), ignore_metadata_errors=False)
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "rpg-zoo")


@pytest.mark.slow
def test_timm_loads_a_pushed_checkpoint(client, server, tmp_path):
    recipe = load_recipe("digits", ["task.model=resnet10t"])
    net = timm.create_model("resnet10t", num_classes=10, in_chans=1).state_dict()
    with ZooWriter(tmp_path / "nets", recipe.origin("collected", ("rpg-zoo",)), Structure.of(net)) as writer:
        writer.add("a", net, seed=0, split="train")
        writer.finish()
    client.ok("rpg-zoo push nets user/net --id a")
    published = head(server, "models/user/net")
    assert ModelCard(published["README.md"].decode(), ignore_metadata_errors=False).data.library_name == "timm"
    run_code(
        client,
        "import timm, safetensors.torch as st\n"
        "model = timm.create_model('hf-hub:user/net', pretrained=True)\n"
        "st.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, 'loaded.safetensors')",
    )
    assert content_hash(load_tensors(tmp_path / "loaded.safetensors")) == content_hash(net)


def test_the_index_and_card_are_read_by_others(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    card = DatasetCard(head(server)["README.md"].decode(), ignore_metadata_errors=False)
    assert (card.data.license, card.data.size_categories) == ("cc-by-4.0", ["n<1K"])
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": "index.parquet"}]
    code = "import datasets; print(*datasets.load_dataset('user/zoo', split='train')['id'])"
    sent = server.sent
    assert run_code(client, code) == " ".join(entry.id for entry in Zoo.open(tmp_path / "zoo").entries)
    assert server.sent - sent >= (tmp_path / "zoo/index.parquet").stat().st_size
