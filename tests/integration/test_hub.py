"""Publishing and pulling against a loopback Hub, through LFS and through Xet. Faults are in test_hub_faults.py."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from hub_client import complete, head, make_zoo, serving, using
from hub_server import Repo
from huggingface_hub import DatasetCard, ModelCard

import zoo.writer
from killing import content
from zoo.checkpoint import content_hash, load_tensors
from zoo.data.tables import shards
from zoo.recipe import load_recipe
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

TINY = Path(__file__).parent / "tiny.yaml"
both = pytest.mark.parametrize("server", ["lfs", "xet"], indirect=True)


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


@both
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
    assert bool(server.received) == (server.xet is None)
    assert bool(server.xet_hashes) == (server.xet is not None)

    seen, count = len(server.log), len(commits)
    again = client.ok("rpg-zoo push zoo user/zoo")
    assert (again["uploaded"], again["bytes"], again["commit"]) == (0, 0, pushed["commit"])
    assert not any("xet-write" in line or line.startswith("PUT") for line in server.log[seen:])
    assert len(server.repos["datasets/user/zoo"].commits) == count

    client.ok("rpg-zoo pull user/zoo")
    assert content(tmp_path / "zoos/zoo") == content(tmp_path / "zoo")
    assert bool(server.sent > 10_000) == (server.xet is None)
    (tmp_path / "zoos/zoo/checkpoints/.DS_Store").touch()  # which is not what was sent
    seen = len(server.log)
    client.ok("rpg-zoo pull user/zoo")
    assert len(server.log) - seen == 1  # which commit the branch is at
    client.ok("rpg-zoo verify hf://user/zoo")


@pytest.mark.parametrize("server", ["lfs", pytest.param("xet", marks=pytest.mark.slow)], indirect=True)
def test_only_what_is_looked_at_is_downloaded(client, server, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo.writer, "STACK_BELOW", 0)
    whole = make_zoo(tmp_path / "apart", count=5)
    client.ok("rpg-zoo push apart user/apart")
    program = (
        "from zoo.checkpoint import content_hash\nfrom zoo.store import Zoo\n"
        "found = Zoo.open('hf://user/apart')\nprint(len(found.entries))\n"
        "for id in ('net-3', 'net-1', 'net-3'):\n    print(content_hash(found.load(found.entry(id))))"
    )
    seen = len(server.log)
    count, *hashes = client.python(program).split()
    assert (int(count), hashes) == (5, [whole.entry(id).sha256 for id in ("net-3", "net-1", "net-3")])
    asked = server.log[seen:]
    assert len(asked) == (3 + 2 * 2 if server.xet is None else 3 + 2 + 1)  # one Xet token serves both files
    assert sum("net-3" in line for line in asked) == 1
    assert not any("net-0" in line or "index" in line for line in asked)


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


@pytest.mark.parametrize("server", [pytest.param("lfs", marks=pytest.mark.slow), "xet"], indirect=True)
def test_versions_and_branches(client, server, tmp_path):
    """A new version replaces the old, which its tag still gives; strangers' files stay; a branch leaves main alone."""
    first = client.ok("rpg-zoo push zoo user/zoo")
    repo = server.repos["datasets/user/zoo"]
    repo.commit(head(server) | {"notes.txt": b"mine"})
    (tmp_path / "zoo").rename(tmp_path / "old")
    make_zoo(tmp_path / "zoo", count=3, seed=1)
    second = client.ok("rpg-zoo push zoo user/zoo")
    assert head(server)["notes.txt"] == b"mine"
    del head(server)["notes.txt"]
    complete(server, tmp_path)
    assert set(repo.tags) == {first["tag"], second["tag"]}
    client.ok(f"rpg-zoo pull user/zoo --revision {first['tag']} --out back")
    assert content(tmp_path / "back") == content(tmp_path / "old")

    before = head(server)
    shutil.rmtree(tmp_path / "zoo")
    make_zoo(tmp_path / "zoo", seed=2)
    client.ok("rpg-zoo push zoo user/zoo --revision next")
    assert head(server) == before
    complete(server, tmp_path, branch="next")
    assert client.ok("rpg-zoo pull user/zoo --revision next --out next")["checkpoints"] == 6
    assert client.ok("rpg-zoo show hf://user/zoo@next")["sha256"] == Zoo.open(tmp_path / "zoo").sha256


def test_a_pull_of_a_branch_or_tag_continues(client, server, tmp_path):
    tag = client.ok("rpg-zoo push zoo user/zoo")["tag"]
    for revision in (tag, "main"):
        server.fault("GET", "/storage/", status=500, times=1000)
        client.fails(f"rpg-zoo pull user/zoo --revision {revision} --out {revision}", 1, "same command continues")
        server.faults.clear()
        client.fails(f"rpg-zoo pull user/zoo --revision other --out {revision}", 2, "begun earlier")
        client.ok(f"rpg-zoo pull user/zoo --revision {revision} --out {revision}")
        assert content(tmp_path / revision) == content(tmp_path / "zoo")


def test_what_is_selected_is_known_before_it_is_pulled(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    assert client.ok("rpg-zoo pull user/zoo --select split==train --dry-run")["selected"] == 4
    client.fails("rpg-zoo pull user/zoo --id nothing --dry-run", 2, "no checkpoint 'nothing'")
    client.fails("rpg-zoo pull user/zoo --select nonsense --dry-run", 2, "not understood")
    assert not (tmp_path / "zoos").exists()


def test_scores_for_the_card_are_of_all_networks(client, server, tmp_path):
    client.fails("rpg-zoo push zoo user/zoo --scores nowhere", 2, "--scores nowhere has scores of 0 of 6 checkpoints")
    client.fails("rpg-zoo card zoo --scores nowhere", 2, "rpg-zoo score zoo --out nowhere")
    assert server.repos == {}


def test_a_zoo_that_cannot_be_used_is_not_pulled(client, server, tmp_path):
    """Files that are what the manifest says, and a manifest that is wrong about what is in them."""
    client.ok("rpg-zoo push zoo user/zoo")
    files = head(server)
    manifest = json.loads(files["manifest.json"])
    record = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    hostile = {
        "row": manifest | {"entries": [manifest["entries"][0] | {"row": None}, *manifest["entries"][1:]]},
        "frozen": manifest | {"frozen": "a" * 64},
        "sources": manifest | {"files": manifest["files"] | {"sources.json": record}},
    }
    for name, changed in hostile.items():
        repo = server.repos[f"datasets/user/{name}"] = Repo()
        repo.commit(files | {"sources.json": b"{}", "manifest.json": json.dumps(changed).encode()})
        client.fails(f"rpg-zoo pull user/{name} --out {name}", 1, "does not hold a sound zoo")
        assert not (tmp_path / name / "manifest.json").exists()


def test_a_generator_that_keeps_its_networks_draws_from_the_hub(client, server, tmp_path):
    client.ok("rpg train --zoo zoo --method gaussian --out run")
    client.ok("rpg push ./run user/gen")
    client.ok("rpg generate ./run -n 2 --out here")
    client.ok("rpg generate hf://user/gen -n 2 --out there")
    here, there = ([entry.sha256 for entry in Zoo.open(tmp_path / out).entries] for out in ("here", "there"))
    assert here == there
    card = ModelCard(head(server, "models/user/gen")["README.md"].decode(), ignore_metadata_errors=False)
    assert "gaussian" in card.data.tags
    assert "diffusion" not in card.data.tags


def test_a_licence_is_needed(client, server, tmp_path):
    origin = load_recipe("cifar10-cnn-small").collected(("rpg-zoo", "collect"))
    with ZooWriter(tmp_path / "other", origin, Structure.of({"w": torch.zeros(2)})) as writer:
        writer.add("a", {"w": torch.zeros(2)}, seed=0, split="train")
        writer.finish()
    client.fails("rpg-zoo push other user/other --dry-run", 2, "cifar10", "--license")
    assert "license: mit" in client.ok("rpg-zoo card other --license mit")["card"]
    client.fails("rpg-zoo push zoo user/zoo --license nonsense", 2, "license", "must be one of")
    assert server.repos == {}


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


@pytest.mark.parametrize("server", [pytest.param("lfs", marks=pytest.mark.slow), "xet"], indirect=True)
def test_timm_loads_a_pushed_checkpoint(client, server, tmp_path):
    net = timm.create_model("resnet10t", num_classes=10, in_chans=1).state_dict()
    one_network_zoo(tmp_path / "nets", "digits", ["task.model=resnet10t"], net)
    client.ok("rpg-zoo push nets user/net --id a")
    published = head(server, "models/user/net")
    assert ModelCard(published["README.md"].decode(), ignore_metadata_errors=False).data.library_name == "timm"
    client.python(
        "import timm, safetensors.torch as st\n"
        "model = timm.create_model('hf-hub:user/net', pretrained=True)\n"
        "st.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, 'loaded.safetensors')",
    )
    assert content_hash(load_tensors(tmp_path / "loaded.safetensors")) == content_hash(net)


def one_network_zoo(path, recipe, overrides, network):
    with ZooWriter(path, load_recipe(recipe, overrides).collected(("rpg-zoo",)), Structure.of(network)) as writer:
        writer.add("a", network, seed=0, split="train")
        writer.finish()


@pytest.mark.slow
def test_peft_loads_a_pushed_adapter(client, server, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, **sizes))
    base.save_pretrained(tmp_path / "base")
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "use_dora": True}
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    adapter = {k: torch.randn_like(v) for k, v in peft.get_peft_model_state_dict(adapted).items()}
    overrides = [f"task.model={tmp_path / 'base'}", "task.rank=2", "task.alpha=4", "task.targets=[q_proj,up_proj]"]
    one_network_zoo(tmp_path / "nets", "llama-7b-dora-r4", overrides, adapter)
    client.fails("rpg-zoo push nets user/net --id a", 2, "ODC-By", "--license")
    client.ok("rpg-zoo push nets user/net --id a --license other")
    published = head(server, "models/user/net")
    assert set(published) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert ModelCard(published["README.md"].decode(), ignore_metadata_errors=False).data.library_name == "peft"
    client.python(
        "import peft, transformers, safetensors.torch as st\n"
        "base = transformers.AutoModelForCausalLM.from_pretrained('base')\n"
        "model = peft.PeftModel.from_pretrained(base, 'user/net')\n"
        "state = peft.get_peft_model_state_dict(model)\n"
        "st.save_file({k: v.contiguous() for k, v in state.items()}, 'loaded.safetensors')",
    )
    assert content_hash(load_tensors(tmp_path / "loaded.safetensors")) == content_hash(adapter)


@pytest.mark.parametrize(
    ("recipe", "library", "wrapper"),
    [
        pytest.param("ade20k", "mmseg", "state_dict", marks=pytest.mark.slow),  # imports mmseg
        ("coco", "detectron2", "model"),
    ],
)
def test_a_checkpoint_of_mmseg_and_detectron2(client, server, tmp_path, recipe, library, wrapper):
    if library == "mmseg":  # which has the names of the classes
        pytest.importorskip(library)
    network = {"backbone.w": torch.ones(3)}
    one_network_zoo(tmp_path / "nets", recipe, [], network)
    client.ok("rpg-zoo push nets user/net --id a --license other")
    published = head(server, "models/user/net")
    assert set(published) == {"README.md", "model.pth"}
    assert ModelCard(published["README.md"].decode(), ignore_metadata_errors=False).data.library_name == library
    assert 'hf_hub_download("user/net", "model.pth")' in published["README.md"].decode()
    (tmp_path / "model.pth").write_bytes(published["model.pth"])
    assert torch.equal(torch.load(tmp_path / "model.pth", weights_only=True)[wrapper]["backbone.w"], torch.ones(3))


def test_the_index_and_card_are_read_by_others(client, server, tmp_path):
    client.ok("rpg-zoo push zoo user/zoo")
    card = DatasetCard(head(server)["README.md"].decode(), ignore_metadata_errors=False)
    assert (card.data.license, card.data.size_categories) == ("cc-by-4.0", ["n<1K"])
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": "index.parquet"}]
    client.ok("rpg-zoo pull user/zoo --out back")
    program = (
        "import datasets, json\n"
        "there = datasets.load_dataset('user/zoo', split='train')['id']\n"
        "here = datasets.load_dataset('parquet', data_files='back/index.parquet', split='train')['id']\n"
        "print(json.dumps([list(there), list(here)]))"
    )
    ids = [entry.id for entry in Zoo.open(tmp_path / "zoo").entries]
    assert json.loads(client.python(program).splitlines()[-1]) == [ids, ids]


def test_imagenet_is_fetched_as_its_reader_wants_it(client, server, tmp_path):
    small = {"zoo__fetch__sets__IMAGENET_BYTES": 1000}
    words = ("ILSVRC/imagenet-1k", "hf auth login", "https://image-net.org")
    client.fails("rpg-zoo fetch imagenet data", 4, *words, **small)
    assert not (tmp_path / "data").exists()
    names = [f"data/{split}-{i:05d}-of-00002.parquet" for split in ("train", "validation", "test") for i in (0, 1)]
    repo = server.repos["datasets/ILSVRC/imagenet-1k"] = Repo()
    repo.commit({name: name.encode() * 99 for name in names} | {"README.md": b"about", "x/data/train-0.parquet": b"no"})
    found = client.ok("rpg-zoo fetch imagenet data", **small)
    assert found["complete"]
    kept = content(tmp_path / "data")
    assert kept == {f"imagenet-1k/{name}": name.encode() * 99 for name in names if "test" not in name}
    assert [file.name for file in shards(tmp_path / "data/imagenet-1k/data", "train")] == [
        Path(n).name for n in names[:2]
    ]

    (tmp_path / "data/imagenet-1k" / names[2]).unlink()
    server.log.clear()
    assert client.ok("rpg-zoo fetch imagenet data", **small)["complete"]
    assert content(tmp_path / "data") == kept
    assert sum(line.startswith("GET /storage/") for line in server.log) == 1
