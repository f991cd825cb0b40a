"""Import: networks in parts, copies, links, mixed structures, names; configurations are kept; the authors' names."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.conditions import PUBLISHED, Holdout
from zoo.formats.exporting import export_checkpoint
from zoo.formats.importing import Plan, Report, import_zoo
from zoo.formats.naming import fields, id_of
from zoo.formats.sources import Sources
from zoo.recipe import Purpose, load_recipe
from zoo.scoring import score
from zoo.store import Zoo
from zoo.tasks.classification import Config


def network(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        name: t.detach().clone() for name, t in nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).state_dict().items()
    }


def put(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(content, path) if path.name.endswith("safetensors") else torch.save(content, path)
    return path


def parts(place: Path, tensors: dict[str, Tensor], stem: str = "model", ending: str = "safetensors") -> None:
    names = [f"{stem}-0000{number}-of-00002.{ending}" for number in (1, 2)]
    where = {name: names[i % 2] for i, name in enumerate(tensors)}
    for file in names:
        put(place / file, {name: tensors[name] for name in tensors if where[name] == file})
    (place / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def run(place: Path, **options: object) -> tuple[Report, Zoo, dict[str, str]]:
    """The report, the zoo, and the reasons by file."""
    report = import_zoo(Plan(place, **options), ("test",), place.with_name("zoo"))  # type: ignore[arg-type]
    zoo = Zoo.open(place.with_name("zoo"))
    assert list(zoo.problems()) == []
    return report, zoo, {row.file: str(row.reason) for row in report.skipped}


def taken(zoo: Zoo) -> dict[str, dict[str, Tensor]]:
    return {entry.id: zoo.load(entry) | zoo.frozen() for entry in zoo.entries}


def holds(zoo: Zoo, expected: dict[str, dict[str, Tensor]]) -> None:
    found = taken(zoo)
    assert sorted(found) == sorted(expected)
    for id, tensors in expected.items():
        assert found[id].keys() == tensors.keys()
        assert all(torch.equal(found[id][name], tensor) for name, tensor in tensors.items())


# Networks in several files


@pytest.mark.parametrize(("stem", "ending"), [("model", "safetensors"), ("pytorch_model", "bin"), ("net", "pth")])
def test_a_network_in_parts_is_one(tmp_path: Path, stem: str, ending: str) -> None:
    for seed in range(2):
        parts(tmp_path / "src" / f"m{seed}", network(seed), stem, ending)
    _, zoo, reasons = run(tmp_path / "src")
    ids = [f"m{seed}" if stem == "model" else f"m{seed}-{stem}" for seed in range(2)]
    holds(zoo, {id: network(seed) for seed, id in enumerate(ids)})
    assert reasons == {}


def drop(place: Path) -> None:
    (place / "model-00002-of-00002.safetensors").unlink()


def more(place: Path) -> None:
    shutil.copy(place / "model-00001-of-00002.safetensors", place / "model-00003-of-00003.safetensors")


def other(place: Path) -> None:
    put(place / "model-00002-of-00002.safetensors", {"x": torch.ones(1)})


def no_index(place: Path) -> None:
    (place / "model.safetensors.index.json").unlink()


def escaping(place: Path) -> None:
    index = {"weight_map": {"a": "../m0/model-00001-of-00002.safetensors"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop, "its part model-00002-of-00002.safetensors is missing"),
        (more, "model-00003-of-00003.safetensors lies beside its parts, but is not in the index"),
        (other, "unlike its part model-00002-of-00002.safetensors"),
        (no_index, "part of a network in several files; expected its index"),
        (escaping, "names '../m0/model-00001-of-00002.safetensors'; expected files of weights beside it"),
    ],
)
def test_parts_that_are_not_whole_are_named(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    for seed in range(2):
        parts(tmp_path / "src" / f"m{seed}", network(seed))
    damage(tmp_path / "src" / "m1")
    _, zoo, reasons = run(tmp_path / "src")
    holds(zoo, {"m0": network(0)})
    assert any(file.startswith("m1/") and said in reason for file, reason in reasons.items()), reasons


# What is no network, or is there twice


def test_everything_else_is_listed_with_its_reason(tmp_path: Path) -> None:
    place = tmp_path / "src"
    for seed in range(3):
        put(place / f"n{seed}.safetensors", network(seed))
    put(place / "n0.pth", network(0))
    put(place / ".hidden" / "x.pth", network(7))
    put(place / "._n1.safetensors", network(8))
    (place / "latest.pth").symlink_to("n2.safetensors")
    (place / "a_link.safetensors").symlink_to("n2.safetensors")
    (place / "all").symlink_to(place)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "consolidated.00.pth"):
        put(place / name, network(9))
    put(place / "checkpoints" / "stack-00000.safetensors", {n: t[None] for n, t in network(3).items()})
    import_zoo(Plan(put(tmp_path / "one" / "n5.safetensors", network(5)).parent), ("test",), place / "zoo-of-ours")
    _, zoo, reasons = run(place)
    holds(zoo, {"n0": network(0), "n1": network(1), "n2": network(2)})
    expected = {
        "n0.safetensors": "the same weights as n0.pth",
        ".hidden": "hidden",
        "._n1.safetensors": "hidden",
        "latest.pth": "a link to n2.safetensors, the same file",
        "a_link.safetensors": "a link to n2.safetensors, the same file",
        "all": "a link to a folder",
        "optimizer.pt": "state of training, not weights",
        "scheduler.pt": "state of training, not weights",
        "rng_state_0.pth": "state of training, not weights",
        "training_args.bin": "state of training, not weights",
        "consolidated.00.pth": "cut for several devices",
        "checkpoints/stack-00000.safetensors": "a stack of several networks",
        "zoo-of-ours": "a zoo of ours",
    }
    assert reasons.keys() == expected.keys()
    assert all(expected[file] in reason for file, reason in reasons.items())
    with pytest.raises(ValueError, match="is a zoo already"):
        run(tmp_path / "zoo")


def test_one_unreadable_folder_or_file_does_not_end_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "src"
    for seed in range(2):
        put(place / f"n{seed}.safetensors", network(seed))
    put(place / "locked" / "x.safetensors", network(3))
    scandir, opened = os.scandir, Path.open

    def refusing_scandir(path: Path) -> object:
        if isinstance(path, Path) and path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def refusing_open(path: Path, *args: object, **options: object) -> object:
        if path.name == "n0.safetensors" and path.parent == place:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refusing_scandir)
    monkeypatch.setattr(Path, "open", refusing_open)
    _, zoo, reasons = run(place)
    holds(zoo, {"n1": network(1)})
    assert reasons == {"locked": "cannot be read: Permission denied", "n0.safetensors": "Permission denied"}


# Which structure


def test_the_structure_of_most_files_wins(tmp_path: Path) -> None:
    place = tmp_path / "src"
    put(place / "_head.safetensors", {"1.weight": torch.ones(2)})
    put(place / "a.pth", {"model": network(0)})
    put(place / "b.pth", network(1))
    put(place / "c.safetensors", {f"module.{name}": t for name, t in network(2).items()})
    put(place / "d.pth", {"state_dict": {f"model.{n}": t for n, t in network(3).items()}, "meta": {}})
    half = {name: t.half() if t.is_floating_point() else t for name, t in network(4).items()}
    put(place / "_half.pth", half)
    counterless = {name: t for name, t in network(5).items() if "num_batches" not in name}
    put(place / "e.pth", counterless)
    report, zoo, reasons = run(place)
    widened = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    holds(zoo, {"a": network(0), "b": network(1), "c": network(2), "d": network(3), "half": widened, "e": network(5)})
    assert list(reasons) == ["_head.safetensors"]
    assert any("float16 became float32 (1 of 7 files)" in note for note in report.notes)
    assert any("names without 'model.' (1 of 7" in note for note in report.notes)


@pytest.mark.parametrize("first_alone", [True, False])
def test_ties_are_looked_for_in_every_file(tmp_path: Path, first_alone: bool) -> None:
    place = tmp_path / "src"
    networks = {}
    for seed in range(3):
        tensors = {"embed": torch.full((2, 3), float(seed)), "body": torch.full((2,), float(seed))}
        tensors["head"] = torch.ones(2, 3) if first_alone and seed else tensors["embed"]
        networks[f"s{seed}"] = tensors
        put(place / f"s{seed}.pth", tensors)
    _, zoo, _ = run(place)
    holds(zoo, networks)
    assert [spec.tied_to for spec in zoo.structure] == [None, None, None if first_alone else "embed"]


def test_a_mask_is_kept_once_and_infinite_weights_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "src"
    mask = {"attention.mask": torch.triu(torch.full((4, 4), -math.inf), 1)}
    for seed in range(2):
        put(place / f"s{seed}.safetensors", network(seed) | mask)
    put(place / "t.safetensors", network(2) | {"attention.mask": torch.full((4, 4), -math.inf)})
    put(place / "u.safetensors", network(3) | mask | {"0.bias": torch.full((8,), math.inf)})
    put(place / "v.safetensors", network(4) | mask | {"0.bias": torch.full((8,), math.nan)})
    put(place / "w.safetensors", network(5) | mask | {"1.running_var": torch.arange(-1.0, 7.0)})
    _, zoo, reasons = run(place)
    assert reasons.pop("w.safetensors") == "1.running_var holds variances below zero"
    holds(zoo, {f"s{seed}": network(seed) | mask for seed in range(2)})
    assert zoo.frozen().keys() == mask.keys()
    assert "attention.mask differs" in reasons.pop("t.safetensors")
    assert set(reasons.values()) == {"0.bias holds values that are NaN or infinite"}


def test_masks_of_a_recipes_network_are_kept_once(tmp_path: Path) -> None:
    """They are among the tensors of its structure, where other networks have what is learnt."""

    class Masked(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(64, 10))
            self.register_buffer("mask", torch.triu(torch.full((3, 3), -math.inf), 1))

    class MaskedConfig(Config):
        def network(self, seed: int, pretrained: bool) -> nn.Module:
            return Masked()

    recipe = Purpose("mine", MaskedConfig.model_validate(load_recipe("digits").task.model_dump()))
    networks = {}
    for seed in range(3):
        torch.manual_seed(seed)
        networks[f"s{seed}"] = {n: t.clone() for n, t in Masked().state_dict().items()}
    networks["s2"]["mask"][0, 0] = -math.inf
    for id, tensors in networks.items():
        put(tmp_path / "src" / f"{id}.pth", tensors)
    put(tmp_path / "src/t.pth", networks["s1"] | {"1.bias": torch.full((10,), -math.inf)})
    _, zoo, reasons = run(tmp_path / "src", recipe=recipe)
    assert "mask differs from that of the other networks" in reasons.pop("s2.pth")
    assert reasons == {"t.pth": "1.bias holds values that are NaN or infinite"}
    holds(zoo, {id: networks[id] for id in ("s0", "s1")})
    assert "mask" not in {spec.name for spec in zoo.structure}
    task = recipe.task.build(None, torch.device("cpu"))
    assert len(score(zoo, task, tmp_path / "scores")) == 2


def test_dtypes_and_names_that_no_zoo_holds(tmp_path: Path) -> None:
    place = tmp_path / "src"
    put(place / "a.safetensors", network(0))
    put(
        place / "b.safetensors",
        {n: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for n, t in network(1).items()},
    )
    put(place / "c.safetensors", network(2) | {"x" * 606: torch.ones(1)})
    put(place / "d.pth", network(3) | {"z": torch.ones(1, dtype=torch.complex64)})
    _, zoo, reasons = run(place)
    holds(zoo, {"a": network(0)})
    assert "has dtype float8_e4m3fn; expected one of float64" in reasons["b.safetensors"]
    assert "a name of 606 characters and 1 axes; expected at most 512" in reasons["c.safetensors"]
    assert "z has dtype complex64" in reasons["d.pth"]


@pytest.mark.parametrize("cast", [True, False])
def test_cast_converts_doubles(tmp_path: Path, cast: bool) -> None:
    place = tmp_path / "src"
    for seed in range(2):
        put(place / f"s{seed}.safetensors", network(seed))
    put(place / "t.safetensors", {n: t.double() if t.is_floating_point() else t for n, t in network(2).items()})
    _, zoo, reasons = run(place, cast=cast)
    holds(zoo, {f"s{seed}": network(seed) for seed in range(2)} | ({"t": network(2)} if cast else {}))
    assert cast or "--cast converts it" in reasons["t.safetensors"]


# Where they were, and what lay beside them


def test_ids_and_records_keep_the_path(tmp_path: Path) -> None:
    files = ("seed0/model.safetensors", "seed1/model.safetensors", "seed1/last.pth", "b-c/d.pth", "b/c-d.pth")
    for seed, file in enumerate(files):
        put(tmp_path / "src" / file, network(seed))
    _, zoo, _ = run(tmp_path / "src")
    found = Sources.of(zoo)
    assert found is not None
    where = {id: record.file for id, record in found.networks.items()}
    assert where == {
        "seed0": files[0],
        "seed1": files[1],
        "seed1-last": files[2],
        "b-c-d-2": files[3],
        "b-c-d": files[4],
    }
    assert "sources.json" in zoo.manifest.files


def test_the_hubs_cache(tmp_path: Path) -> None:
    for seed in range(2):
        repository = tmp_path / "src" / f"models--someone--net{seed}"
        snapshot = repository / "snapshots" / (f"{seed}" * 40)
        snapshot.mkdir(parents=True)
        put(repository / "blobs" / "x.safetensors", network(seed)).rename(repository / "blobs" / f"{seed:064x}")
        (snapshot / "model.safetensors").symlink_to(f"../../blobs/{seed:064x}")
        (snapshot / "stolen.safetensors").symlink_to(put(tmp_path / "elsewhere.safetensors", network(9)))
    whole, zoo, reasons = run(tmp_path / "src")
    holds(zoo, {f"someone-net{seed}-{seed}" + f"{seed}" * 7: network(seed) for seed in range(2)})
    assert {reason for reason in reasons.values() if "link" in reason} == {f"a link that points outside {tmp_path}/src"}
    place = tmp_path / "src" / "models--someone--net0" / "snapshots" / ("0" * 40)
    report = import_zoo(Plan(place), ("test",), tmp_path / "one")
    assert len(report.taken) == 1
    assert ["outside" in str(row.reason) for row in report.skipped] == [True]
    assert len(whole.rows) == 6


def test_an_import_without_recipe_is_exported_again(tmp_path: Path) -> None:
    network = timm.create_model("test_vit", num_classes=5, img_size=32).eval()
    config = {"architecture": "test_vit", "num_classes": 5, "model_args": {"img_size": 32, "num_classes": 5}}
    config["pretrained_cfg"] = {"num_classes": 5, "input_size": [3, 32, 32], "classifier": "head"}
    put(tmp_path / "src" / "a" / "model.safetensors", network.state_dict())
    (tmp_path / "src" / "a" / "config.json").write_text(json.dumps(config))
    _, zoo, _ = run(tmp_path / "src")
    export_checkpoint(zoo, zoo.entries[0], "timm", tmp_path / "out")
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again(images), network(images))
    with pytest.raises(ValueError, match="imported as timm, without a recipe; export its networks with --format timm"):
        export_checkpoint(zoo, zoo.entries[0], "peft", tmp_path / "other")


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"0": 7}},
        {"rank_pattern": {"0": 1}},
        {"bias": "all"},
        {"use_dora": True},
    ],
    ids=str,
)
def test_adapters_without_recipe_keep_what_they_compute(tmp_path: Path, options: dict) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    start = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["0", "1"], r=2, lora_alpha=5, **options))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    adapted.save_pretrained(tmp_path / "src" / "a")
    _, zoo, _ = run(tmp_path / "src")
    export_checkpoint(zoo, zoo.entries[0], "peft", tmp_path / "out")
    fresh = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    fresh.load_state_dict(start)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "out").eval()
    given = torch.rand(3, 8)
    torch.testing.assert_close(again(given), adapted.eval()(given))


def test_directories_without_weights_or_configuration_are_listed(tmp_path: Path) -> None:
    place = tmp_path / "src"
    for name in ("r0", "r1", "r2", "r9"):
        (place / name).mkdir(parents=True)
        (place / name / "config.json").write_text(json.dumps({"architecture": "x"} if name != "r2" else {"a": 1}))
        if name != "r9":
            put(place / name / "model.safetensors", network(int(name[1])))
    put(place / "loose.pth", network(5))
    _, zoo, reasons = run(place)
    holds(zoo, {"r0": network(0), "r1": network(1)})
    assert "has no model.safetensors" in reasons["r9"]
    assert "has no 'architecture'" in reasons["r2/model.safetensors"]
    assert "has no config.json beside it" in reasons["loose.pth"]


# The Model Zoos


@pytest.mark.parametrize(
    "results",
    [
        '{"training_iteration": 5, "test_acc": NaN}\n{"training_iteration": 0, "test_acc": 0.5, "loss": Infinity}\n',
        '\n\n{"training_iteration": 0, "test_acc": 0.5}\n\n',
        '{"training_iteration": 0, "test_acc": 0.5}\n{"training_iteration": 5, "te',
        'no JSON at all\n{"training_iteration": 0, "test_acc": 0.5}\n[1]\n',
    ],
)
def test_trials_with_lines_that_are_no_json(tmp_path: Path, results: str) -> None:
    trial = tmp_path / "src" / "trial"
    for step in (0, 5):
        put(trial / f"checkpoint_{step:06d}" / "checkpoints", network(step))
    (trial / "result.json").write_text(results)
    (trial / "params.json").write_text('{"seed": 3, "weight_threshold": Infinity}')
    _, zoo, reasons = run(tmp_path / "src")
    assert reasons == {}
    first, second = zoo.entries
    assert (first.seed, first.metrics["test_acc"].value, second.metrics) == (3, 50, {})


def test_trials_with_dropout_are_one_zoo_without_a_recipe(tmp_path: Path) -> None:
    for number, layers in enumerate(((0, 2), (0, 3), (0, 3))):
        torch.manual_seed(number)
        shapes = ((4, 3), (4,), (2, 4), (2,))
        names = [f"module_list.{k}.{kind}" for k in layers for kind in ("weight", "bias")]
        trial = tmp_path / "src" / f"trial{number}"
        put(trial / "checkpoint_000001" / "checkpoints", dict(zip(names, map(torch.randn, shapes), strict=True)))
        (trial / "params.json").write_text("{}")
    _, zoo, reasons = run(tmp_path / "src")
    assert (len(zoo.entries), reasons) == (3, {})


# The names of RPG's authors


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0007_acc0.9312_seed0020_resnet18", {"step": 7, "seed": 20}),
        ("0050_acc0.6977_seed0021_resnet50", {"step": 50, "seed": 21}),
        ("0001_acc0.97_class0279_condition_classinput_vittiny", {"step": 1, "condition": "0100010111"}),
        ("0003_acc0.9_class1022_condition_classinput_vittiny", {"step": 3, "condition": "1111111110"}),
        ("0002_acc0.98_class0512_condition_imageinput_vittiny", {"step": 2, "condition": "1000000000"}),
        ("0005_acc0.81_class0007_condition_permutation_vittiny", {"step": 5, "seed": 7}),
        ("0000800", {"step": 800}),
        ("generated_cifar10_resnet18_004", {}),
        ("full_model", {}),
        ("0008_acc0.5_class0123_vit", {"step": 8, "condition": "0123"}),
        ("run1/checkpoint-500", {"step": 500}),
        ("epoch=9-step=900", {"step": 900}),
        ("epoch_12", {"step": 12}),
        ("iter", {}),
    ],
)
def test_what_names_say(name: str, expected: dict) -> None:
    found = fields(PurePath(name))
    metrics = found.pop("metrics", ())
    assert found == expected
    assert [metric.name for metric in metrics] == (["acc"] if "_acc" in name else [])


def test_names_that_differ_in_their_case_alone_stay_apart(tmp_path: Path) -> None:
    """On some file systems the files of the zoo would be one."""
    for seed, name in enumerate(("Net", "net")):
        put(tmp_path / "src" / f"{name}.safetensors", network(seed))
    _, zoo, _ = run(tmp_path / "src")
    holds(zoo, {"Net": network(0), "net-2": network(1)})


def test_long_and_odd_ids_stay_apart() -> None:
    names = [f"{'deep/' * 60}{i}/x" for i in range(3)] + ["ü/ä", "../..", "--", "a b"]
    ids = [id_of(PurePath(name)) for name in names]
    assert len(set(ids)) == len(names)
    assert all(len(id) <= 110 and id[0].isalnum() for id in ids)


@pytest.mark.parametrize("kind", [None, "published", "random"])
def test_the_authors_binary_zoo_is_split_as_published(tmp_path: Path, kind: str | None) -> None:
    numbers = (1, 100, 279, 512, 653, 1022)
    for number in numbers:
        for step in (1, 2):
            name = f"{step:04d}_acc0.97_class{number:04d}_condition_classinput_vittiny.pth"
            put(tmp_path / "src" / name, network(2 * number + step))
    holdout = Holdout.model_validate({"kind": kind, "n": 600}) if kind == "random" else Holdout(kind="published")
    _, zoo, _ = run(tmp_path / "src", holdout=holdout if kind else None)
    assert len(zoo.entries) == 12
    if kind != "random":
        expected = {f"{n:010b}": "unseen" if n in PUBLISHED else "train" for n in numbers}
        assert {entry.condition: entry.split for entry in zoo.entries} == expected
    put(tmp_path / "src" / "x.pth", network(1))
    if kind:
        with pytest.raises(ValueError, match=r"--holdout is for binary tasks, and the name of x.pth says no condition"):
            run(tmp_path / "src", holdout=holdout)


def test_binary_tasks_fit_their_recipe_by_name(tmp_path: Path) -> None:
    recipe = load_recipe("binary-cifar10-cnn")
    torch.manual_seed(0)
    for number in (100, 279):
        tensors = {spec.name: torch.randn(spec.shape) for spec in recipe.task.structure()}
        put(tmp_path / "src" / f"0001_acc0.97_class{number:04d}_condition_classinput_vittiny.pth", tensors)
    _, zoo, _ = run(tmp_path / "src", recipe=recipe, holdout=Holdout(kind="published"))
    assert {entry.condition: entry.split for entry in zoo.entries} == {"0001100100": "train", "0100010111": "unseen"}
