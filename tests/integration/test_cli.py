"""Both programs through their command lines on one tiny run of everything: results, JSON, exit codes, errors."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from commands import TINY, make_tiny, run
from safetensors.torch import load_file, save_file

from learning import content
from zoo.store import Zoo


class Shell:
    """Runs commands in-process: exit code, stdout, stderr."""

    def __call__(self, command):
        return run(command)

    def json(self, command):
        code, out, err = self(f"{command} --json")
        assert code == 0, err
        return json.loads(out)

    def fails(self, command, code, *words):
        """The command exits with this code and one line on stderr that holds these words."""
        found, out, err = self(command)
        assert (found, out) == (code, ""), (found, out, err)
        line = [line for line in err.splitlines() if line.startswith(("rpg:", "rpg-zoo:"))]
        assert len(line) == 1, err
        assert err.splitlines()[-1] == line[0]
        for word in words:
            assert word in line[0]


@pytest.fixture
def shell(monkeypatch):
    monkeypatch.delenv("RPG_DATA", raising=False)
    return Shell()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A directory in which `tiny` was collected, trained and generated in the default places."""
    place = tmp_path_factory.mktemp("made")
    make_tiny(place)
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of it to work in and to damage."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def test_collected_zoo_is_what_the_recipe_says(shell, place):
    shown = shell.json("rpg-zoo show zoos/tiny")
    assert (shown["checkpoints"], shown["splits"], shown["kind"]) == (8, {"train": 8}, "collected")
    rows = shell.json("rpg-zoo ls zoos/tiny")["checkpoints"]
    assert [row["step"] for row in rows] == [rows[0]["step"] + 2 * k for k in range(8)]
    assert set(rows[0]["metrics"]) == {"top1", "top5", "loss"}
    sound = {"zoo": "zoos/tiny", "sound": True, "problems": [], "skipped": []}
    assert shell.json("rpg-zoo verify zoos/tiny") == sound
    code, out, _ = shell("rpg-zoo ls zoos/tiny")
    assert code == 0
    assert len(out.splitlines()) == 10
    assert out.splitlines()[-1].startswith("8 checkpoints (8 train) of ")
    of_folder = shell.json("rpg-zoo ls zoos")["zoos"]
    assert [Path(zoo["zoo"]).name for zoo in of_folder] == sorted(path.name for path in Path("zoos").iterdir())
    assert (of_folder[0]["checkpoints"], of_folder[0]["conditions"]) == (8, 0)


def test_generated_zoo_is_a_zoo_of_the_same_structure_with_recorded_parents(shell, place):
    original, generated = Zoo.open(Path("zoos/tiny")), Zoo.open(Path("zoos/tiny-generated"))
    assert generated.structure == original.structure
    assert list(generated.problems()) == []
    known = {entry.sha256 for entry in original.entries}
    assert all(set(entry.parents) <= known and len(entry.parents) == 1 for entry in generated.entries)
    assert generated.manifest.origin.settings["generate"]["sampler"] == "ddim"
    steps = [weights["module.1.num_batches_tracked"] for weights in generated.checkpoints(generated.entries)]
    first = original.load(original.entries[0])["module.1.num_batches_tracked"]
    assert all(torch.equal(step, first) for step in steps)


def test_inference_modes_and_group_sizes_give_the_same_weights(shell, place):
    partial = Zoo.open(Path("zoos/tiny-generated"))
    for mode in ("sequential", "full"):
        shell.json(f"rpg generate runs/tiny --mode {mode} --out zoos/{mode}")
        other = Zoo.open(Path(f"zoos/{mode}"))
        for a, b in zip(partial.entries, other.entries, strict=True):
            mine, theirs = partial.load(a), other.load(b)
            for name in mine:
                torch.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-4)
    shell.json("rpg generate runs/tiny --sampler dpm++ --steps 4 --out zoos/solver")
    assert Zoo.open(Path("zoos/solver")).manifest.origin.settings["generate"]["sampler"] == "dpm++"
    shell.json("rpg generate runs/tiny --seed 1 --out zoos/seed")
    seeded = Zoo.open(Path("zoos/seed"))
    assert not {entry.sha256 for entry in seeded.entries} & {entry.sha256 for entry in partial.entries}


def test_eval_json_has_the_contract_and_score_agrees_with_it(shell, place):
    result = shell.json("rpg eval --task tiny")
    assert set(result) == {"task", "protocol", "metrics", "checkpoints"}
    assert set(result["metrics"]["top1"]) == {"best", "mean", "median", "min", "std", "n"}
    values = [row["metrics"]["top1"]["value"] for row in result["checkpoints"]]
    top1 = result["metrics"]["top1"]
    assert (top1["best"], top1["min"], top1["n"]) == (max(values), min(values), 3)
    assert top1["mean"] == pytest.approx(sum(values) / 3)
    hashes = [entry.sha256 for entry in Zoo.open(Path("zoos/tiny-generated")).entries]
    assert [row["sha256"] for row in result["checkpoints"]] == hashes
    before = Path("scores/tiny-generated/scores.jsonl").read_bytes()
    again = shell.json("rpg-zoo score zoos/tiny-generated")
    assert again["metrics"] == result["metrics"]
    assert Path("scores/tiny-generated/scores.jsonl").read_bytes() == before


def test_eval_reads_single_files_and_refuses_other_networks(shell, place):
    zoo = Zoo.open(Path("zoos/tiny"))
    weights = zoo.load(zoo.entries[3])
    save_file(weights, "one.safetensors")
    torch.save({"state_dict": weights}, "one.pth")
    expected = shell.json("rpg eval zoos/tiny --task tiny")["checkpoints"][3]
    for name in ("one.safetensors", "one.pth"):
        found = shell.json(f"rpg eval {name} --task digits")["checkpoints"][0]
        assert (found["sha256"], found["metrics"]) == (expected["sha256"], expected["metrics"])
    save_file({"weight": torch.zeros(3)}, "other.safetensors")
    shell.fails("rpg eval other.safetensors --task digits", 2, "does not fit", "missing: module.0.weight")
    Path("broken.safetensors").write_bytes(Path("one.safetensors").read_bytes()[:100])
    shell.fails("rpg eval broken.safetensors --task digits", 1, "not a whole safetensors file")
    assert shell.json("rpg eval zoos/tiny")["task"] == "tiny"  # a zoo knows its task, a file does not
    shell.fails("rpg eval broken.safetensors", 2, "does not say what its network does; name its recipe, as in --task")
    shell.fails("rpg eval", 2, "say which networks: a zoo or a file, or --task RECIPE")
    shell.fails("rpg eval zoos/tiny --task cifar10-cnn-small", 2, "was made for tiny")


def test_report_compares_all_groups(shell, place):
    result = shell.json("rpg report --task tiny --set eval.average_of=4 --set eval.n=3")
    groups = result["groups"]
    for group in groups.values():
        assert set(group["metrics"]["top1"]) == {"best", "mean", "median", "min", "std", "n"}
    assert groups["original"]["metrics"] == shell.json("rpg-zoo score zoos/tiny")["metrics"]
    expected = {
        "original",
        "generated",
        "noised_0.01",
        "noised_0.05",
        "noised_0.1",
        "mean_of_all",
        "average_of_4",
        "gaussian",
    }
    assert set(groups) == expected
    assert groups["original"]["similarity"]["nearest_ratio"]["median"] == pytest.approx(1)
    page = Path(result["report"]).read_text()
    assert page.count("<svg") >= 3
    assert (place / "reports/tiny-generated/report.md").is_file()
    saved = json.loads((place / "reports/tiny-generated/report.json").read_text())
    assert saved["groups"][0]["name"] == "original"
    anew = shell.json("rpg report zoos/tiny-generated --set eval.recalibrate=true --out reports/anew")
    assert anew["protocol"].endswith(", BatchNorm of 980 training images")
    assert anew["groups"]["original"]["metrics"]["top1"]["mean"] > 60  # with these statistics, too
    again = "rpg report zoos/tiny-generated --set eval.average_of=4 --set eval.n=3 --set eval.recalibrate=true"
    shell.fails(again, 2, "holds another report (protocol: ")


def test_perturb_makes_zoos(shell, place):
    made = shell.json("rpg-zoo perturb zoos/tiny --kind noise --sigma 0.1 -n 4")
    assert (made["kind"], made["checkpoints"]) == ("derived", 4)
    assert shell("rpg-zoo verify zoos/tiny-noise")[0] == 0
    shell.fails("rpg-zoo perturb zoos/tiny --kind noise --sigma 0.2 -n 4", 2, "perturb.sigma 0.1 -> 0.2")
    shell.fails("rpg-zoo perturb zoos/tiny --kind nois", 2, "kind", "'noise'", '"nois"')
    shell.fails("rpg-zoo perturb zoos/tiny --kind soup --of 99", 2, "cannot mix 99")


def test_polish_with_other_settings_of_the_task_is_another_zoo(shell, place):
    assert shell.json("rpg polish zoos/tiny --steps 1")["steps"] == 1
    shell.fails(
        "rpg polish zoos/tiny --steps 1 --set task.validation=0.3", 2, "polish.task.validation (default) -> 0.3"
    )


def test_dry_runs_write_nothing(shell, tmp_path, monkeypatch, place):
    before = sorted(place.rglob("*"))
    assert shell.json("rpg polish zoos/tiny --steps 3 --dry-run")["steps"] == 3
    shell.fails("rpg polish zoos/tiny --steps 3 --split nope --dry-run", 2, "nope")
    shell.fails("rpg polish zoos/tiny --steps 3 --out zoos/tiny --dry-run", 2, "zoos/tiny holds another zoo")
    planned = shell.json("rpg-zoo collect digits --dry-run")
    assert planned["checkpoints"] == 50
    constants = 2  # BatchNorm's counters, int64
    assert planned["bytes"] == 50 * (4 * (planned["values"] - constants) + 8 * constants)
    planned = shell.json("rpg train digits --zoo zoos/tiny --dry-run --set method.train.steps=7")
    assert planned["settings"]["method"]["train"]["steps"] == 7
    assert shell.json("rpg generate tiny -n 5 --out zoos/five --dry-run")["n"] == 5
    asked = shell.json("rpg generate tiny -n 5 --set generate.sampler=ddpm --out zoos/five --dry-run")
    assert (asked["n"], asked["sampler"]) == (5, "ddpm")
    assert shell.json("rpg-zoo perturb zoos/tiny --dry-run")["kind"] == "noise"
    assert shell.json("rpg-zoo score zoos/tiny --dry-run")["checkpoints"] == 8
    assert shell.json("rpg eval --task tiny --dry-run")["zoo"] == "zoos/tiny-generated"
    assert shell.json("rpg report --task tiny --dry-run")["originals"] == "zoos/tiny"
    assert shell.json("rpg demo --dry-run")["out"] == "demo"
    assert sorted(place.rglob("*")) == before


def test_lists_and_doctor(shell, place):
    recipes = shell.json("rpg-zoo recipes")["recipes"]
    assert {"digits", "cifar10-cnn-small", "cifar10-cnn-medium"} <= set(recipes)
    about = recipes["digits"]["about"]
    assert (recipes["digits"]["checkpoints"], about["parameters"]) == (50, 1010)
    assert recipes["digits"]["hours"] == about["hours"]["collect"] + about["hours"]["train"]
    found = shell.json("rpg doctor")
    assert found["problems"] == []
    assert found["core"]["torch"] == torch.__version__.split("+")[0] or found["core"]["torch"] == torch.__version__


def test_estimate_needs_neither_data_nor_weights(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = shell.json("rpg estimate cifar10-cnn-small --device h100")
    assert set(found) == {"recipe", "network", "tokens", "generator", "training", "sampling", "device"}
    assert found["network"] == {"parameters": 2864, "tensors": 10, "adequate_sizes": ["RPG-Tiny"]}
    assert (found["tokens"]["count"], round(100 * found["tokens"]["useful"], 1)) == (18, 62.2)
    cut = shell.json(f"rpg estimate {TINY} --device a100 --set method.generator.tokenisation=flatten")
    assert cut["tokens"]["count"] == -(-cut["network"]["parameters"] // 64)
    other = shell.json("rpg estimate rpg-small --parameters 5717416 --device h200")
    assert other["network"]["adequate_sizes"] == ["RPG-Small", "RPG-Base"]
    assert other["tokens"]["count"] == 1396
    code, out, _ = shell(f"rpg estimate {TINY} --device cpu")
    assert (code, out.split(":")[0]) == (0, "tiny")
    assert "in float32" in out
    shell.fails("rpg estimate rpg-large", 2, "--parameters")
    shell.fails("rpg estimate digits --device v100", 2, "--device v100")
    many = "--set zoo.checkpoints=300 --set method.generator.permutation_state=one-hot"
    shell.fails(f"rpg estimate digits --device h100 {many}", 2, "300 checkpoints", "learned or none")
    shell.fails("rpg estimate digits --set task.model=resnet9999", 2, "resnet9999")
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_line_and_the_right_exit_code(shell, place):
    shell.fails("rpg-zoo collect digit", 2, "no recipe named 'digit'", "did you mean digits?")
    shell.fails("rpg-zoo collect digits --set zoo.epoch=3", 2, "zoo.epoch is not a known key", "did you mean epochs?")
    shell.fails("rpg-zoo collect digits --set method.train.steps=many", 2, "method.train.steps", "integer", '"many"')
    shell.fails("rpg-zoo collect digits --set method.generator.d_model=30", 2, "method.generator", "multiple of")
    shell.fails("rpg-zoo collect digits --set task.model=resnet9999 --out x", 2, "resnet9999")
    shell.fails("rpg-zoo collect digits --set task.name=clasification", 2, "did you mean classification?")
    shell.fails("rpg-zoo collect digits --set epochs", 2, "key.path=value")
    shell.fails("rpg-zoo collect nowhere.yaml", 2, "no recipe file nowhere.yaml")
    shell.fails("rpg-zoo colect digits", 2, "No such command 'colect'")
    shell.fails("rpg-zoo show zoos/none", 4, "no zoo at zoos/none")
    shell.fails("rpg train digits", 4, "no zoo at zoos/digits")
    shell.fails("rpg generate nothing", 4, "runs/nothing", "rpg train")
    shell.fails("rpg generate tiny --steps 5000 --out y", 2, "5000")
    shell.fails("rpg generate tiny --sampler dpm --out y", 2, "sampler", '"dpm"')
    shell.fails("rpg generate tiny --set generate.sampeler=ddpm --out y", 2, "sampeler", "did you mean sampler")
    shell.fails("rpg generate tiny --set method.train.steps=3 --out y", 2, "method", "generate.KEY=VALUE")
    shell.fails("rpg generate tiny -n 4 --set generate.n=5 --out y", 2, "generate.n", "one of the two")
    shell.fails("rpg generate tiny -n 7", 2, "generate.n 3 -> 7")
    shell.fails("rpg eval --task nothing", 2, "no recipe or task named 'nothing'")
    shell.fails("rpg eval --task cifar10-cnn-small", 4, "no generated zoo for 'cifar10-cnn-small'")
    shell.fails("rpg-zoo score zoos/tiny --device tpu", 2, "--device tpu")
    shell.fails(
        "rpg-zoo collect cifar10-cnn-small --data-root /nonexistent", 4, "cifar10/plain_text", "uoft-cs/cifar10"
    )
    shell.fails("rpg-zoo collect cifar10-cnn-small", 4, "uoft-cs/cifar10", "--data-root")
    Path("file").touch()
    for command in (f"rpg-zoo collect {TINY}", "rpg generate tiny", "rpg-zoo export zoos/tiny seed00000-0000"):
        shell.fails(f"{command} --out file/y", 2, "file is a file", "--out")
    shell.fails("rpg-zoo align zoos/tiny --restarts 0 --out x", 2, "restarts: Input should be greater", "got 0")
    assert not Path("x").exists()
    assert not Path("y").exists()


def test_a_diverging_training_says_what_to_lower_and_keeps_the_run(shell, place):
    command = f"rpg train {TINY} --zoo zoos/tiny --out runs/hot --set method.train.learning_rate=1e30"
    shell.fails(command, 1, "the loss is", "lower method.train.learning_rate")
    shell.fails(
        f"rpg-zoo collect {TINY} --out zoos/hot --set zoo.learning_rate=1e30", 1, "diverged", "zoo.learning_rate"
    )
    shell.fails("rpg-zoo show zoos/hot", 4, "not finished")


def test_damage_is_found_and_named(shell, place):
    zoo = Zoo.open(Path("zoos/tiny"))
    path = Path("zoos/tiny") / zoo.entries[0].file
    tensors = load_file(path)
    tensors["head.0.bias"] = tensors["head.0.bias"].flip(0)
    save_file(tensors, path, metadata={"format": "pt"})
    code, out, _ = shell("rpg-zoo verify zoos/tiny")
    assert code == 1
    assert "has changed" in out
    assert zoo.entries[0].id in out
    shell.fails(f"rpg train {TINY} --out runs/other", 1, "is not the checkpoint of the manifest")
    shell.fails("rpg-zoo score zoos/tiny", 1, "is not the checkpoint of the manifest")
    for name in ("layout.json", "constants.safetensors", "generator.safetensors", "run.json", "metrics.jsonl"):
        file = Path("runs/tiny") / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        shell.fails("rpg generate tiny --out zoos/z", 1, f"runs/tiny/{name} has changed", "train again")
        file.unlink()
        shell.fails("rpg generate tiny --out zoos/z", 1, f"runs/tiny/{name} is missing")
        file.write_bytes(whole)
    Path("runs/tiny/trained.json").write_text("{}")
    shell.fails("rpg generate tiny --out zoos/z", 1, "runs/tiny/trained.json is damaged")


def test_damage_to_an_unfinished_training_is_found(shell, place, monkeypatch):
    from rpg.methods.rpg.train import Batches

    command = f"rpg train {TINY} --zoo zoos/tiny --out runs/new"
    whole_step = Batches.backward

    def stop(self, model, step):
        if step == 35:
            raise KeyboardInterrupt
        return whole_step(self, model, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "backward", stop)
        shell.fails(command, 130, "run the same command again")
    # The recipe alone would be another run, so the way on is the command that began this one.
    shell.fails("rpg generate runs/new --out zoos/z", 4, "runs/new is not finished", f"train it with `{command}`")
    for name in ("tokens.npy", "state.safetensors", "layout.json"):
        file = Path("runs/new") / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        shell.fails(command, 1, f"runs/new/{name} has changed")
        file.write_bytes(whole)
    lines = Path("runs/new/metrics.jsonl").read_bytes().splitlines(keepends=True)
    Path("runs/new/metrics.jsonl").write_bytes(lines[0])
    shell.fails(command, 1, "metrics.jsonl has lost lines")
    Path("runs/new/metrics.jsonl").write_bytes(b"".join(lines))
    assert shell(command)[0] == 0


def test_a_report_only_takes_what_belongs_together(shell, place):
    shell.json(f"rpg-zoo collect {TINY} --set zoo.seed=5 --out zoos/others")
    shell.fails("rpg report zoos/tiny-generated --originals zoos/others", 2, "learnt from another zoo than zoos/others")
    shell.fails("rpg report zoos/tiny", 2, "zoos/tiny does not say what it was learnt from")
    shell.json(f"rpg train {TINY} --zoo zoos/others --out runs/others")
    shell.fails("rpg report zoos/tiny-generated --run others", 2, "was not made by runs/others")


def test_generated_networks_can_be_learnt_from(shell, place):
    shell.fails(f"rpg train {TINY} --zoo zoos/tiny-generated --out runs/second", 2, "it has generated")
    made = shell.json(f"rpg train {TINY} --zoo zoos/tiny-generated --split generated --out runs/second")
    assert made["checkpoints"] == 3


def test_finished_directories_are_not_written_into(shell, place):
    shell.fails(f"rpg train {TINY} --zoo zoos/tiny --out zoos/tiny", 2, "exists and is not a run")
    shell.fails(f"rpg-zoo collect {TINY} --out runs/tiny", 2, "exists and is not a zoo")
    for command in (
        f"rpg-zoo collect {TINY} --out",
        f"rpg train {TINY} --zoo zoos/tiny --out",
        "rpg generate tiny --out",
        "rpg-zoo perturb zoos/tiny --out",
        "rpg-zoo score zoos/tiny --out",
        "rpg report --task tiny --out",
    ):
        shell.fails(f"{command} /dev/null/x", 1, "/dev/null/x")
    Path("zoos/broken").mkdir()
    Path("zoos/broken/manifest.json").write_text("{}")
    code, _, err = shell("rpg eval --task tiny")
    assert code == 0
    assert "passing over a damaged zoo: zoos/broken/manifest.json" in err


def test_networks_that_do_not_fit_the_images_are_refused(shell, place):
    shell.fails(f"rpg-zoo collect {TINY} --set task.model=cnn_medium --out z", 2, "cnn_medium cannot take images")
    shell.fails(f"rpg-zoo collect {TINY} --set task.model=test_vit --out z", 2, "test_vit cannot take images")
    made = shell.json(f"rpg-zoo collect {TINY} --set task.model=cnn_small --set zoo.epochs=0 --out z")
    assert made["values"] == 2464


def test_a_manifest_that_leaves_its_directory_is_refused(shell, place):
    manifest = Path("zoos/tiny/manifest.json")
    text = manifest.read_text()
    name = Zoo.open(Path("zoos/tiny")).entries[0].file
    manifest.write_text(text.replace(name, "../../one.safetensors"))
    for command in ("rpg-zoo show", "rpg-zoo verify", "rpg-zoo score", f"rpg train {TINY} --out r --zoo"):
        shell.fails(f"{command} zoos/tiny", 1, "zoos/tiny/manifest.json is damaged", "leaves the zoo's directory")


@pytest.mark.parametrize(
    ("command", "again"),
    [
        (f"rpg-zoo collect {TINY} --out zoos/new", "zoos/new"),
        (f"rpg train {TINY} --zoo zoos/tiny --out runs/new", "runs/new"),
        ("rpg generate tiny --out zoos/new", "zoos/new"),
        ("rpg-zoo perturb zoos/tiny --out zoos/new", "zoos/new"),
        ("rpg-zoo score zoos/tiny --out zoos/new", "zoos/new"),
        ("rpg report --task tiny --out zoos/new", "zoos/new"),
    ],
)
def test_a_full_disk_is_one_line_and_the_same_command_continues(shell, place, monkeypatch, command, again):
    real, calls = os.fsync, []

    def full_after_a_while(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_a_while)
        shell.fails(command, 1, "No space left on device", "run the same command again")
    assert shell(command)[0] == 0
    repaired = undated(Path(again))
    shutil.rmtree(again)
    assert shell(command)[0] == 0
    assert undated(Path(again)) == repaired
    assert not list(Path(again).rglob("*.tmp"))


def undated(place):
    """All files but those that carry a date."""
    return {name: data for name, data in content(place).items() if not name.endswith(("report.md", "report.html"))}


def test_demo_json(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {
        "zoo.epochs": 2,
        "zoo.checkpoints": 5,
        "method.train.steps": 20,
        "method.generator.d_model": 64,
        "method.generator.channels": "[1,4,1]",
        "generate.n": 2,
        "generate.steps": 5,
        "eval.n": 2,
    }
    result = shell.json("rpg demo " + " ".join(f"--set {key}={value}" for key, value in small.items()))
    for group in ("original", "generated", "noised_0.05", "mean_of_all"):
        found = result["groups"][group]
        assert set(found["metrics"]["top1"]) == {"best", "mean", "median", "min", "std", "n"}
        assert {"max_error_iou", "nearest_distance"} <= set(found["similarity"])
    assert set(result["seconds"]) == {"collect", "train", "generate", "compare"}
    assert Path(result["report"]).read_text().startswith("<!")


def test_heldout_seeds_are_reported_and_never_learnt(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seeds = "--set zoo.regime=independent --set zoo.seeds=6 --set zoo.heldout=0.34 --set zoo.checkpoints=1"
    assert shell.json(f"rpg-zoo collect {TINY} {seeds}")["splits"] == {"heldout": 2, "train": 4}
    assert shell.json(f"rpg train {TINY} {seeds}")["checkpoints"] == 4
    shell.json("rpg generate tiny")
    entries = Zoo.open(Path("zoos/tiny")).entries
    heldout = {entry.sha256 for entry in entries if entry.split == "heldout"}
    generated = Zoo.open(Path("zoos/tiny-generated")).entries
    assert not heldout & {parent for entry in generated for parent in entry.parents}
    groups = shell.json("rpg report --task tiny")["groups"]
    assert groups["heldout"]["similarity"]["nearest_ratio"]["n"] == 2
    assert groups["original"]["similarity"]["nearest_ratio"]["n"] == 4


def test_an_interrupt_exits_130_and_stays_resumable(shell, place, monkeypatch):
    import zoo.training.collect

    real, calls = zoo.training.collect._learning_rate, []

    def interrupted(config, step, train_steps):
        calls.append(step)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return real(config, step, train_steps)

    with monkeypatch.context() as patch:
        patch.setattr(zoo.training.collect, "_learning_rate", interrupted)
        shell.fails(f"rpg-zoo collect {TINY} --out zoos/again", 130, "run the same command again")
    assert shell.json(f"rpg-zoo collect {TINY} --out zoos/again")["checkpoints"] == 8
    mine, theirs = Zoo.open(Path("zoos/tiny")), Zoo.open(Path("zoos/again"))
    assert [entry.sha256 for entry in mine.entries] == [entry.sha256 for entry in theirs.entries]


def test_import_through_the_command_line(shell, place):
    zoo = Zoo.open(place / "zoos" / "tiny")
    (place / "theirs").mkdir()
    for k, entry in enumerate(zoo.entries[:2]):
        torch.save(dict(zoo.load(entry)), place / "theirs" / f"{k:04d}_acc0.5_seed0001_digits.pth")
    (place / "theirs" / "notes.txt").write_text("")
    planned = shell.json("rpg-zoo import theirs --dry-run")
    assert (planned["format"], len(planned["taken"]), len(planned["skipped"])) == ("folder", 2, 1)
    assert not (place / "zoos" / "theirs").exists()
    code, out, _ = shell("rpg-zoo import theirs")
    assert code == 0
    assert "notes.txt" in out
    assert "imported 2 checkpoints into zoos/theirs as folder, skipped 1 files" in out
    assert shell("rpg-zoo verify zoos/theirs")[0] == 0
    assert "imported from theirs" in shell("rpg-zoo show zoos/theirs")[1]
    files = {row["id"]: row["file"] for row in planned["taken"]}
    assert {row["id"]: row["source"] for row in shell.json("rpg-zoo ls zoos/theirs")["checkpoints"]} == files
    assert shell.json("rpg-zoo show zoos/theirs")["sources"] == files
    for command in ("ls", "show"):
        assert "0001_acc0.5_seed0001_digits.pth" in shell(f"rpg-zoo {command} zoos/theirs")[1]
        assert ".pth" not in shell(f"rpg-zoo {command} zoos/tiny")[1]
    shell.fails("rpg-zoo score zoos/theirs", 2, "nobody said what the networks of theirs do", "--recipe")
    shell.fails(f"rpg train {TINY} --zoo zoos/theirs", 2, "nobody said what", "import them again with --recipe")
    shell.json(f"rpg-zoo import theirs --recipe {TINY} --out zoos/bound")
    scored = shell.json("rpg-zoo score zoos/bound")
    assert [row["id"] for row in scored["checkpoints"]] == [row["id"] for row in planned["taken"]]
    shell.fails("rpg-zoo import nowhere", 2, "there is no nowhere")
    shell.fails("rpg-zoo import theirs --format tim", 2, "did you mean timm?")
    shell.fails("rpg-zoo import theirs --recipe cifar10-cnn-small", 2, "none of 3 files", "does not fit")


def test_commands_say_what_comes_next(shell, place):
    """The names as they are typed; nothing for programs, and places where somebody chose them."""
    told = {
        f"rpg-zoo collect {TINY}": f"next: rpg train {TINY}",
        f"rpg train {TINY}": "next: rpg generate tiny",
        "rpg generate tiny": "next: rpg report tiny-generated",
        f"rpg train {TINY} --out ./elsewhere --method gaussian": "next: rpg generate elsewhere",
        f"rpg-zoo collect {TINY} --out there": f"next: rpg train {TINY} --zoo there",
    }
    for command, expected in told.items():
        code, _, err = shell(command)
        assert (code, err.splitlines()[-1]) == (0, expected)
    assert "next" not in shell(f"rpg train {TINY} --json")[2]
