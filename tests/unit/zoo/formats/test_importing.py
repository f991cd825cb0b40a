"""Import: every layout, bit for bit; a report without gaps; interruptions continue; pickles run no code."""

import json
import os
import pickle
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo.formats.importing
from learning import train
from rpg.config import DiffusionConfig
from rpg.methods.rpg.config import GeneratorConfig, RPGConfig, TrainConfig
from zoo.checkpoint import save_tensors
from zoo.errors import Failed
from zoo.formats.foreign import Place, detect
from zoo.formats.importing import Plan, Report, import_zoo
from zoo.recipe import Recipe, load_recipe, task_of
from zoo.scoring import score
from zoo.store import Zoo

CPU = torch.device("cpu")


def network(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: t.detach() for name, t in nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict().items()}


def of_recipe(recipe: Recipe, seed: int) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in recipe.task.build(None, CPU).build(seed).state_dict().items()}


def run(place: Path, out: Path, form: str | None = None, recipe: Recipe | None = None, dry_run: bool = False) -> Report:
    return import_zoo(Plan(place, form, recipe), ("test",), out, dry_run)


def holds(zoo: Zoo, networks: dict[str, dict[str, Tensor]]) -> None:
    """The zoo holds exactly these networks, bit for bit, and is sound."""
    assert list(zoo.problems()) == []
    assert [entry.id for entry in zoo.entries] == sorted(networks)
    for entry in zoo.entries:
        found = zoo.load(entry)
        assert list(found) == list(networks[entry.id])
        for name, tensor in networks[entry.id].items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_names_of_the_authors_become_fields(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    place.mkdir()
    torch.save(network(0), place / "0007_acc0.9312_seed0020_resnet18.pth")
    torch.save(network(1), place / "0008_acc0.5_class0123_vit.pth")
    torch.save({"state_dict": network(2)}, place / "my best netwörk!.pt")
    save_tensors(place / "inner" / "a.safetensors", network(3))
    report = run(place, tmp_path / "zoo")
    zoo = Zoo.open(tmp_path / "zoo")
    assert (report.form, zoo.manifest.origin.kind, report.skipped) == ("folder", "imported", [])
    by_id = {entry.id: entry for entry in zoo.entries}
    first, second = by_id["0007_acc0.9312_seed0020_resnet18"], by_id["0008_acc0.5_class0123_vit"]
    assert (first.step, first.seed, first.condition) == (7, 20, None)
    metric = first.metrics["acc"]
    assert (round(metric.value, 9), metric.n, round(metric.stderr, 3)) == (93.12, 1, 25.311)
    assert (second.step, second.seed, second.condition) == (8, 0, "0123")
    for id, seed in ((first.id, 0), (second.id, 1), ("my-best-netw-rk-", 2), ("inner-a", 3)):
        for name, tensor in network(seed).items():
            assert torch.equal(zoo.load(by_id[id])[name], tensor)
    assert list(zoo.problems()) == []


def test_the_report_has_every_file_and_why_it_was_not_taken(tmp_path: Path) -> None:
    place = tmp_path / "src"
    place.mkdir()
    torch.save(network(0), place / "a.pth")
    torch.save({**network(0), "0.weight": torch.zeros(9, 9)}, place / "other_shape.pth")
    torch.save({n: t.double() if t.is_floating_point() else t for n, t in network(0).items()}, place / "double.pth")
    torch.save({**network(0), "0.bias": torch.full((4,), torch.nan)}, place / "nan.pth")
    torch.save({"a": network(0), "b": Fraction(1, 2)}, place / "object.pth")
    (place / "evil.bin").write_bytes(pickle.dumps(Call(), protocol=2))
    (place / "detectron.pkl").write_bytes(pickle.dumps(Call(), protocol=2))
    (place / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (place / "readme.md").write_text("hello")
    (tmp_path / "outside.pth").write_bytes((place / "a.pth").read_bytes())
    (place / "link.pth").symlink_to(tmp_path / "outside.pth")
    (place / "loop.pth").symlink_to("loop.pth")
    os.mkfifo(place / "pipe.pth")
    reasons = {
        "other_shape.pth": "0.weight",
        "double.pth": "float64",
        "nan.pth": "NaN",
        "object.pth": "fractions.Fraction",
        "evil.bin": "posix.mkdir",
        "detectron.pkl": "may run code",
        "cut.safetensors": "safetensors",
        "readme.md": "not a checkpoint",
        "link.pth": "outside",
        "loop.pth": "regular file",
        "pipe.pth": "regular file",
    }
    for dry_run in (True, False):
        report = run(place, tmp_path / "zoo", dry_run=dry_run)
        assert [row.file for row in report.taken] == ["a.pth"]
        assert {row.file for row in report.skipped} == set(reasons)
        for row in report.skipped:
            assert reasons[row.file] in str(row.reason)
        assert (tmp_path / "zoo").exists() is not dry_run
    assert {row["file"] for row in json.loads(json.dumps(report.to_json()))["skipped"]} == set(reasons)
    assert all(name in report.table() for name in reasons)
    assert not Path("ran-code").exists()
    holds(Zoo.open(tmp_path / "zoo"), {"a": network(0)})


class Call:
    """A pickle that makes a directory when it is read."""

    def __reduce__(self) -> object:
        return os.mkdir, ("ran-code",)


@pytest.mark.parametrize("kind", ["empty", "text", "evil"])
def test_nothing_to_take_is_an_error(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "src"
    place.mkdir()
    if kind == "text":
        (place / "readme.md").write_text("x")
    if kind == "evil":
        (place / "evil.pth").write_bytes(pickle.dumps(Call(), protocol=2))
    with pytest.raises(ValueError, match={"evil": "posix.mkdir", "text": "none of the formats"}.get(kind, "none")):
        run(place, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def model_zoo(place: Path, networks: dict[tuple[int, int], dict[str, Tensor]]) -> None:
    """Ray Tune's layout; row 0 of the results is missing, as in some of the published zoos."""
    for (trial, step), weights in networks.items():
        folder = place / "tune" / f"NN_tune_trainable_{trial}_seed={trial}_2021"
        (folder / f"checkpoint_{step:06d}").mkdir(parents=True)
        torch.save(weights, folder / f"checkpoint_{step:06d}" / "checkpoints")
        (folder / f"checkpoint_{step:06d}" / "optimizer").write_bytes(b"anything")
        (folder / "params.json").write_text(json.dumps({"seed": trial, "model::nlin": "gelu"}))
        rows = [{"training_iteration": k, "test_acc": k / 100, "val_acc": float(k), "test_loss": 1.0} for k in (1, 2)]
        (folder / "result.json").write_text("\n".join(map(json.dumps, rows)) + "\n")


def test_model_zoos_map_by_order_and_join_on_the_iteration(tmp_path: Path) -> None:
    recipe = load_recipe("cifar10-cnn-small")
    structure = recipe.task.structure()
    torch.manual_seed(0)
    networks = {(t, s): {spec.name: torch.randn(spec.shape) for spec in structure} for t in (3, 4) for s in (0, 2)}
    layers = (0, 4, 8, 11, 14)
    theirs = [f"module_list.{k}.{part}" for k in layers for part in ("weight", "bias")]
    named = {key: dict(zip(theirs, weights.values(), strict=True)) for key, weights in networks.items()}
    model_zoo(tmp_path / "src", named)
    report = run(tmp_path / "src", tmp_path / "zoo", recipe=recipe)
    assert report.form == "modelzoo"
    assert "gelu" in report.notes[0]
    zoo = Zoo.open(tmp_path / "zoo")
    holds(zoo, {f"NN_tune_trainable_{t}_seed-{t}_2021-{s:06d}": networks[t, s] for t, s in networks})
    assert zoo.structure == structure
    assert [(e.seed, e.step, sorted(e.metrics)) for e in zoo.entries] == [
        (3, 0, []),
        (3, 2, ["test_acc", "val_acc"]),
        (4, 0, []),
        (4, 2, ["test_acc", "val_acc"]),
    ]
    assert [round(zoo.entries[1].metrics[name].value, 9) for name in ("test_acc", "val_acc")] == [2.0, 2.0]
    # without a recipe they keep their names
    run(tmp_path / "src", tmp_path / "plain")
    holds(
        Zoo.open(tmp_path / "plain"),
        {f"NN_tune_trainable_{t}_seed-{t}_2021-{s:06d}": named[t, s] for t, s in networks},
    )


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_timm_directories(tmp_path: Path, name: str) -> None:
    for k in range(2):
        place = tmp_path / "src" / f"net{k}"
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
        save_tensors(place / name, network(k)) if name.endswith("s") else torch.save(network(k), place / name)
    (tmp_path / "src" / "net2").mkdir()
    (tmp_path / "src" / "net2" / "config.json").write_text("[" * 100_000)
    save_tensors(tmp_path / "src" / "net2" / "model.safetensors", network(2))
    report = run(tmp_path / "src", tmp_path / "zoo")
    assert (report.form, [row.file for row in report.skipped]) == ("timm", ["net2/model.safetensors"])
    zoo = Zoo.open(tmp_path / "zoo")
    assert [entry.id for entry in zoo.entries] == ["net0", "net1"]
    for k, entry in enumerate(zoo.entries):
        assert all(torch.equal(zoo.load(entry)[n], t) for n, t in network(k).items())


def test_a_real_peft_adapter_and_that_of_nvlabs(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    settings = peft.LoraConfig(target_modules=["0", "1"], r=2, use_dora=True)
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "src" / "ours")
    weights = peft.utils.get_peft_model_state_dict(adapted)
    nvlabs = tmp_path / "src" / "theirs"
    nvlabs.mkdir()
    (nvlabs / "adapter_config.json").write_text(json.dumps({"peft_type": "DORA"}))
    other = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save(other, nvlabs / "adapter_model.bin")
    report = run(tmp_path / "src", tmp_path / "zoo")
    assert (report.form, report.skipped) == ("peft", [])
    zoo = Zoo.open(tmp_path / "zoo")
    assert [entry.id for entry in zoo.entries] == ["ours", "theirs"]
    for entry, expected in zip(zoo.entries, (weights, other), strict=True):
        assert {n: t.tolist() for n, t in zoo.load(entry).items()} == {n: t.tolist() for n, t in expected.items()}


@pytest.mark.parametrize(("form", "key"), [("mmseg", "state_dict"), ("detectron2", "model")])
def test_wrapped_checkpoints(tmp_path: Path, form: str, key: str) -> None:
    place = tmp_path / "src"
    place.mkdir()
    for k in range(2):
        torch.save({"meta": {"dataset_meta": {"classes": ["a"]}}, key: network(k)}, place / f"net{k}.pth")
    torch.save(network(2), place / "net2.pth")
    assert detect(Place(place)) == "folder"  # where each file has its own container
    assert len(run(place, tmp_path / "folder").taken) == 3
    report = run(place, tmp_path / "zoo", form)
    assert [(row.file, key in str(row.reason)) for row in report.skipped] == [("net2.pth", True)]
    holds(Zoo.open(tmp_path / "zoo"), {f"net{k}": network(k) for k in range(2)})


def test_two_formats_in_one_place_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "x"}')
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_tensors(tmp_path / "model.safetensors", network(0))
    with pytest.raises(ValueError, match="timm and peft"):
        detect(Place(tmp_path))


def test_an_interrupted_import_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "src"
    place.mkdir()
    for k in range(5):
        torch.save(network(k), place / f"{k}.pth")
    run(place, tmp_path / "whole")
    add, calls = zoo.formats.importing.ZooWriter.add, []

    def failing(*args: object, **fields: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise Failed("the disk is full")
        return add(*args, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(zoo.formats.importing.ZooWriter, "add", failing)
    with pytest.raises(Failed):
        run(place, tmp_path / "zoo")
    assert len(run(place, tmp_path / "zoo").taken) == 5
    assert len(calls) == 3 + 3  # the two that were there are not written again
    for file in ("manifest.json", "index.parquet", "checkpoints/stack-00000.safetensors"):
        assert (tmp_path / "zoo" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert len(run(place, tmp_path / "zoo").taken) == 5  # once more changes nothing
    torch.save(network(6), place / "6.pth")
    with pytest.raises(ValueError, match="--out"):
        run(place, tmp_path / "zoo")


def test_a_zoo_without_recipe_says_that_it_cannot_be_scored(tmp_path: Path) -> None:
    torch.save(network(0), tmp_path / "a.pth")
    run(tmp_path / "a.pth", tmp_path / "zoo")
    with pytest.raises(ValueError, match="--recipe"):
        task_of(Zoo.open(tmp_path / "zoo").manifest.origin)


def test_an_imported_zoo_is_learnt_from_and_scored(tmp_path: Path) -> None:
    recipe = load_recipe("digits")
    place = tmp_path / "src"
    place.mkdir()
    for k in range(3):
        torch.save(of_recipe(recipe, k), place / f"{k:04d}_acc0.1_seed{k:04d}_digits.pth")
    run(place, tmp_path / "zoo", recipe=recipe)
    imported = Zoo.open(tmp_path / "zoo")
    config = RPGConfig(
        name="rpg",
        generator=GeneratorConfig(token_size=64, d_model=32, d_state=8, head_dim=32, num_layers=1, channels=(1, 4, 1)),
        diffusion=DiffusionConfig(num_steps=20),
        train=TrainConfig(batch_size=2, steps=3, precision="float32"),
    )
    made = train(config, imported, tmp_path / "run")
    assert made.trained
    task = recipe.task.build(None, CPU)
    assert [s.id for s in score(imported, task, tmp_path / "scores")] == [entry.id for entry in imported.entries]


def test_a_file_that_has_changed_since_it_was_taken_is_not_taken_for_itself(tmp_path: Path) -> None:
    """Retrained networks of one architecture have the same size, by which their files are known."""
    place, out = tmp_path / "place", tmp_path / "zoo"
    for seed in range(3):
        save_tensors(place / f"s{seed}.safetensors", network(seed))
    before = run(place, out)
    assert run(place, out) == before
    save_tensors(place / "s1.safetensors", network(9))
    with pytest.raises(ValueError, match=r"zoo has s1\.safetensors as it was before it changed; choose another place"):
        run(place, out)
    assert torch.equal(Zoo.open(out)[1]["0.weight"], network(1)["0.weight"])
    os.utime(place / "s0.safetensors", (0, 0))  # of no matter
    save_tensors(place / "s1.safetensors", network(1))
    assert run(place, out) == before


def test_folders_are_trainings_of_their_own(tmp_path: Path) -> None:
    """Those of single steps are parts of one; a name that says the seed is believed."""
    names = {
        "a/epoch=9-step=900.ckpt": 0,
        "a/epoch=9-step=950.ckpt": 0,
        "b/checkpoint-500/model.safetensors": 1,
        "b/checkpoint-600/model.safetensors": 1,
        "b/model.safetensors": 1,  # the last one of the same training
        "c/0007_acc0.9312_seed0020_resnet18.pth": 20,
    }
    for number, name in enumerate(names):
        path = tmp_path / "place" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, network(number)) if name.endswith("safetensors") else torch.save(network(number), path)
    run(tmp_path / "place", tmp_path / "zoo")
    assert sorted(entry.seed for entry in Zoo.open(tmp_path / "zoo").entries) == sorted(names.values())
    assert {entry.id: entry.seed for entry in Zoo.open(tmp_path / "zoo").entries}["b"] == 1
    alone = tmp_path / "place" / "a"
    run(alone, tmp_path / "alone")
    assert [entry.seed for entry in Zoo.open(tmp_path / "alone").entries] == [0, 0]


@pytest.mark.parametrize("bad", [0, 3])
def test_statistics_that_have_overflowed_are_no_mask(tmp_path: Path, bad: int) -> None:
    """Nor is anything that is infinite in one network and not in most."""
    place = tmp_path / "place"
    for seed in range(4):
        tensors = network(seed) | {"gamma": torch.full((3,), torch.inf if seed == bad else 1.0)}
        if seed == bad:
            tensors["1.running_var"] = torch.full((4,), torch.inf)
        save_tensors(place / f"s{seed}.safetensors", tensors)
    report = run(place, tmp_path / "zoo")
    assert [row.id for row in report.taken] == [f"s{seed}" for seed in range(4) if seed != bad]
    assert "holds values that are NaN or infinite" in str(report.skipped[0].reason)
    zoo = Zoo.open(tmp_path / "zoo")
    assert {"1.running_var", "gamma"} <= {spec.name for spec in zoo.structure}


def test_links_out_of_the_source_are_followed_nowhere(tmp_path: Path) -> None:
    place, private = tmp_path / "place", tmp_path / "private"
    first, second = ({n: t for k, (n, t) in enumerate(network(0).items()) if k % 2 == own} for own in (0, 1))
    save_tensors(place / "m" / "model-00001-of-00002.safetensors", first)
    save_tensors(private / "secret.safetensors", second)
    (place / "m" / "model-00002-of-00002.safetensors").symlink_to(private / "secret.safetensors")
    files = {n: f"model-0000{k}-of-00002.safetensors" for k, part in ((1, first), (2, second)) for n in part}
    (place / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    save_tensors(place / "plain.safetensors", network(0))
    reasons = {row.file: str(row.reason) for row in run(place, tmp_path / "zoo").skipped}
    assert "a link that points outside" in reasons["m/model.safetensors.index.json"]
    for name in ("a", "b"):
        save_tensors(tmp_path / "timm" / name / "model.safetensors", network(ord(name)))
    (private / "conf.json").write_text('{"architecture": "x", "token": "secret"}')
    (tmp_path / "timm" / "a" / "config.json").symlink_to(private / "conf.json")
    (tmp_path / "timm" / "b" / "config.json").write_text('{"architecture": "x"}')
    report = run(tmp_path / "timm", tmp_path / "of-timm")
    assert [row.id for row in report.taken] == ["b"]
    assert b"secret" not in (tmp_path / "of-timm" / "sources.json").read_bytes()


def test_what_cannot_be_kept_of_a_folder_is_said_before_any_is_taken(tmp_path: Path) -> None:
    for name, config in (("a", '{"architecture": "x"}'), ("b", '{"architecture": "\\ud800"}')):
        save_tensors(tmp_path / "timm" / name / "model.safetensors", network(ord(name)))
        (tmp_path / "timm" / name / "config.json").write_text(config)
    save_tensors(tmp_path / "timm" / "a" / "best.safetensors", network(7))
    for dry_run in (True, False):
        report = run(tmp_path / "timm", tmp_path / "zoo", dry_run=dry_run)
        reasons = {row.file: str(row.reason) for row in report.skipped}
        assert [row.id for row in report.taken] == ["a"]
        assert reasons["a/best.safetensors"] == "lies beside model.safetensors, which is taken of this folder"
        assert "holds text that is not Unicode" in reasons["b/model.safetensors"]
    assert list(Zoo.open(tmp_path / "zoo").problems()) == []


def test_what_is_refused_may_have_the_name_of_what_was_taken(tmp_path: Path) -> None:
    """A link to a network, and a file beside one: neither is the file that an earlier call took."""
    place = tmp_path / "place"
    save_tensors(place / "best" / "model.safetensors", network(0))
    (place / "best.safetensors").symlink_to(place / "best" / "model.safetensors")
    save_tensors(place / "timm" / "a" / "model.safetensors", network(1))
    (place / "timm" / "a" / "config.json").write_text('{"architecture": "x"}')
    torch.save(network(2), place / "timm" / "a" / "model.th")
    for source, form in ((place, "folder"), (place / "timm", "timm")):
        before = run(source, tmp_path / form, form)
        assert len(before.skipped) >= 1
        assert run(source, tmp_path / form, form) == before


def test_the_index_of_a_network_alone_is_imported_with_its_parts(tmp_path: Path) -> None:
    place = tmp_path / "place"
    first, second = ({n: t for k, (n, t) in enumerate(network(0).items()) if k % 2 == own} for own in (0, 1))
    for k, part in enumerate((first, second), 1):
        save_tensors(place / f"model-0000{k}-of-00002.safetensors", part)
    files = {n: f"model-0000{k}-of-00002.safetensors" for k, part in ((1, first), (2, second)) for n in part}
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert len(run(index, tmp_path / "zoo").taken) == 1
