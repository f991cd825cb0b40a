"""Binary tasks the whole way through the command lines: collect, train, generate for tasks never seen, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import call, run

from rpg.methods.rpg.learnt import Learnt
from rpg.run import Run
from zoo.store import Zoo

HERE = Path(__file__).parent
BINARY = str(HERE / "binary.yaml")
UNSEEN = ("0010000000", "0100010110", "0100010111")


def result(command: str) -> Any:
    return json.loads(call(f"{command} --json"))


def refused(command: str, expected: int = 2) -> str:
    """The only line on stderr of a command that is bad input."""
    code, _, err = run(command)
    assert code == expected, err
    assert len(err.strip().splitlines()) == 1, err
    return err


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo, a run for each scope, and what they generate."""
    place = tmp_path_factory.mktemp("binary")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result(f"rpg-zoo collect {BINARY}")
        for scope in ("all", "head"):
            sets = f"--set method.generator.condition_scope={scope}"
            result(f"rpg train {BINARY} --zoo zoos/binary --out runs/{scope} {sets}")
            options = "--split unseen --flip --condition 0000011111"
            result(f"rpg generate runs/{scope} {options} --out made-{scope}")
    return place


@pytest.fixture(autouse=True)
def there(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def test_collect() -> None:
    made = Zoo.open(Path("zoos/binary"))
    assert {entry.condition for entry in made.select("unseen")} == set(UNSEEN)
    assert len(made.entries) == 16
    one, other = (made.load(made.entry(f"{c}-seed00000-0000")) for c in ("0000011111", "1111100000"))
    weight, bias = one["head.0.weight"], one["head.0.bias"]
    # From a shared start the complement's network is another, and not a mere exchange of the outputs.
    assert not weight.equal(other["head.0.weight"])
    assert bias.shape == (2,)


@pytest.mark.slow
def test_workers_make_the_same_zoo() -> None:
    result(f"rpg-zoo collect {BINARY} --out two --workers 2")
    hashes = [[entry.sha256 for entry in Zoo.open(Path(path)).entries] for path in ("two", "zoos/binary")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("scope", ["head", "all"])
def test_train_and_generate(scope: str) -> None:
    run = Run(Path(f"runs/{scope}"))
    record = run.record()
    originals = Zoo.open(Path("zoos/binary"))
    assert record.networks == tuple(entry.sha256 for entry in originals.select("train"))
    assert Learnt(run).record().conditions == tuple(entry.condition for entry in originals.select("train"))
    assert record.conditions["unseen"] == UNSEEN
    made = Zoo.open(Path(f"made-{scope}"))
    assert len(made.entries) == 2 * (2 + 6)
    assert all((entry.condition or "") in entry.id for entry in made.entries)
    own = {entry.sha256 for entry in originals.entries if entry.condition == "0000011111"}
    parents = {entry.condition: set(entry.parents) for entry in made.entries}
    assert parents["0000011111"] == own
    assert parents["0100010111"] == set()


def test_all_is_every_task_of_every_split() -> None:
    asked = result("rpg generate runs/all --split all -n 1 --out everything --dry-run")
    assert set(asked["conditions"]) == {entry.condition for entry in Zoo.open(Path("zoos/binary")).entries}


def test_a_network_depends_on_its_own_condition_only() -> None:
    result("rpg generate runs/all --condition 1,5,7,8,9 -n 1 --out alone")  # 0100010111 by the names of its classes
    (alone,) = Zoo.open(Path("alone")).entries
    again = Zoo.open(Path("made-all")).entry("generated-0100010111-0000")
    weights, expected = Zoo.open(Path("alone")).load(alone), Zoo.open(Path("made-all")).load(again)
    for name, tensor in weights.items():
        assert tensor.allclose(expected[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--condition 010", "expected 10 digits"),
        ("--condition 01000101112", "expected 10 digits"),
        ("--condition 010001011x", "expected 10 digits"),
        ("--condition 0000000000", "expected 10 digits"),
        ("--condition 1,5,ten", "digits has no class 'ten'"),
        ("--condition loss=0.0", "another kind of condition"),
        ("--condition 1111111111", "expected 10 digits"),
        ("--split heldout", "no conditions of a split 'heldout'; known: all, "),
        ("--flip", "give --condition or --split"),
        ('--flip --split all --set generate.conditions=["0100010111"]', "conditions is given by --set and by"),
        ("", "say which: --condition"),
    ],
)
@pytest.mark.parametrize("dry_run", ["", " --dry-run"])
def test_bad_conditions_are_one_line(options: str, message: str, dry_run: str) -> None:
    assert message in refused(f"rpg generate runs/all {options}{dry_run}")


def test_a_run_without_conditions_says_so() -> None:
    plain = "--set method.generator.condition=none --set method.train.steps=1"
    result(f"rpg train {BINARY} --zoo zoos/binary --out runs/plain {plain}")
    for options in ("--condition 0100010111", "--split unseen"):
        err = refused(f"rpg generate runs/plain {options}")
        assert "was not trained with conditions" in err


def test_a_zoo_without_conditions_cannot_train_a_conditional_generator() -> None:
    tiny = HERE / "tiny.yaml"
    result(f"rpg-zoo collect {tiny} --set zoo.epochs=1 --set zoo.checkpoints=2")
    sets = "--set method.generator.condition=binary --set method.generator.permutation_state=none"
    assert "has no condition" in refused(f"rpg train {tiny} {sets}")


def test_recipe_mistakes_are_one_line() -> None:
    plain = f"rpg-zoo collect {HERE / 'tiny.yaml'} --set zoo.holdout.kind=published"
    assert "are for tasks with conditions" in refused(f"{plain} --dry-run")
    assert "expected 10 digits" in refused(f'rpg-zoo collect {BINARY} --set zoo.conditions=["0101"]')


def test_eval_scores_each_entry_on_its_own_task() -> None:
    found = result("rpg eval zoos/binary --task binary")
    assert set(found["metrics"]) == {"top1", "balanced", "loss"}
    assert {row["condition"] for row in found["checkpoints"]} == {
        e.condition for e in Zoo.open(Path("zoos/binary")).entries
    }
    assert found["metrics"]["top1"]["mean"] > 80


def test_networks_for_words_have_no_labels_to_be_scored_with(monkeypatch) -> None:
    """As tina makes them of a text: their entries have no condition."""
    zoo = Zoo.open(Path("zoos/binary"))
    entries = (*zoo.entries[:1], *(entry.model_copy(update={"condition": None}) for entry in zoo.entries[1:]))
    monkeypatch.setattr(Zoo, "entries", property(lambda _: entries))
    words = f"{entries[1].id} of zoos/binary does not say which labels it is for"
    for command in ("rpg eval zoos/binary --task binary --out scores/words", "rpg-zoo score binary --out scores/words"):
        assert words in refused(command)
    assert words in refused("rpg polish binary --steps 1 --out zoos/words")
    assert "different tasks" in refused("rpg-zoo align binary --refine 1 --out zoos/words")
    assert not Path("zoos/words").exists()


def test_estimate_follows() -> None:
    told = result(f"rpg estimate {BINARY} --device h100")["generator"]
    plain = result(f"rpg estimate {BINARY} --device h100 --set method.generator.condition=none")["generator"]
    assert told["learned_embeddings"] - plain["learned_embeddings"] == 10 * 1024 + 1024 + 1024 * 32 + 32


def test_eval_sets_generated_networks_beside_originals_and_baselines() -> None:
    found = result("rpg eval made-all --task binary")
    assert set(found["mean_gaps"]) == {"unseen", "train", "new"}
    rows = {row["condition"]: row for row in found["tasks"]}
    row, complement = rows["0100010111"], rows["1011101000"]
    per_task = {"nearest", "neighbours", "vote", "regression", "ridge", "arithmetic"}
    assert set(row["gaps"]) == {"generated", *per_task, "random"}
    assert set(found["absent"]) == {"classifier"}
    slope = [bit["value"] for bit in found["slopes"]["original"] if bit]
    assert sum(slope) / len(slope) > 0.5  # the originals label most images of a class as they were told
    # The complement's networks are among those of a random condition, which then cannot do better than all the others.
    assert row["accuracy"]["random"]["mean"] < row["accuracy"]["original"]["mean"]
    # A network that is right on a task is wrong on its complement.
    assert row["flipped"]["mean"] == pytest.approx(100 - complement["accuracy"]["generated"]["mean"])
    assert set(row["classes"]) == {"original", "generated", "flipped"}
    for mine, theirs in zip(row["classes"]["flipped"], complement["classes"]["generated"], strict=True):
        assert mine == pytest.approx(100 - theirs, abs=1e-3)
    nearest = Zoo.open(Path("scores/made-all/baselines/nearest")).entry("nearest-0100010111")
    assert nearest.condition == "0100010111"


def test_eval_takes_baselines_from_what_the_generator_learnt_and_refuses_other_originals() -> None:
    result("rpg-zoo split zoos/binary --holdout random -n 500 --out elsewhere")
    words = "made-all was learnt from another zoo than elsewhere"
    assert words in refused("rpg eval made-all --originals elsewhere --out scores/other")
    assert not Path("scores/other").exists()  # nothing was scored before
    train = "method.train.steps=2 method.train.save_every=2 method.generator.permutation_state=none"
    sets = " ".join(f"--set {pair}" for pair in train.split())
    result(f"rpg train {BINARY} --zoo elsewhere --split unseen --out runs/unseen {sets}")
    result("rpg generate runs/unseen --condition 0000011111 -n 1 --out made-unseen")
    result("rpg eval made-unseen --originals elsewhere")
    source = Zoo.open(Path("scores/made-unseen/baselines/nearest")).manifest.origin.source
    assert source is not None
    assert source.split == "unseen"


def test_split_holds_out_other_tasks_of_the_same_checkpoints() -> None:
    planned = result("rpg-zoo split zoos/binary --holdout random -n 500 --out halves --dry-run")
    assert not Path("halves").exists()
    made = result("rpg-zoo split zoos/binary --holdout random -n 500 --out halves")
    assert made["splits"] == planned["splits"]
    assert sum(made["splits"].values()) == made["checkpoints"] == 16
    assert result("rpg-zoo verify halves")["problems"] == []
    for options, words in (
        ("--holdout neighbours", "no-neighbours"),
        ("--holdout no-neighbours -n 3", "must be even"),
        ("--holdout random -n 5000", "cannot hold out 5000 of 1022 tasks"),
        ("--holdout random -n 500 --seed 1 --out halves", "choose another place with --out"),
    ):
        assert words in refused(f"rpg-zoo split zoos/binary {options}")


def test_report_has_the_plots_and_the_curve() -> None:
    result(f"rpg-zoo collect {HERE / 'tiny.yaml'} --set zoo.checkpoints=2 --out tens")
    found = result("rpg report made-all --run runs/all --classifier tens")
    assert Path(found["report"]).read_text().count("<svg") == 3
    assert found["absent"] == {}
    (row,) = [row for row in found["tasks"] if row["condition"] == "0100010111"]
    assert row["accuracy"]["classifier"]["n"] == 2
    assert row["accuracy"]["classifier"]["mean"] > 80  # it knows the digits, so it knows which of them are labelled 1
    assert "holds another report (classifier: " in refused("rpg report made-all --run runs/all")
    assert "holds networks for binary; expected a zoo of networks for all classes" in refused(
        "rpg report made-all --classifier zoos/binary --out other"
    )
    assert "--classifier nothing is not there; expected a zoo of networks for all classes" in refused(
        "rpg report made-all --classifier nothing --out other --dry-run", 4
    )
    assert "is for networks of binary tasks" in refused("rpg report tens --originals tens --classifier tens --out o")


def test_networks_of_a_method_that_is_told_no_task_are_not_scored() -> None:
    result("rpg train --zoo zoos/binary --method gaussian --out runs/normal")
    assert "a method that is told no task" in refused("rpg generate normal -n 2 --score --out zoos/normal")
    assert not Path("zoos/normal").exists()
    assert not Path("scores/normal").exists()


def test_all_zeros_in_a_generated_zoo_cannot_come_about() -> None:
    err = refused("rpg generate runs/all --condition 0000000000 --out zeros")
    assert "0000000000" in err
    assert not Path("zeros").exists()


def test_networks_of_many_tasks_are_not_learnt_to_be_measured_on_images_of_one() -> None:
    command = "rpg train zoos/binary --method sane-small --out runs/sane --set method.best=1"
    message = refused(f"{command} --dry-run")
    assert "are for many tasks, and this looks at images of one; use --set generate.batchnorm_passes=0" in message
    call(f"{command} --dry-run --set generate.batchnorm_passes=0")
