"""Which binary tasks there are, and which are held out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.conditions import (
    BITS,
    MOST_CLASSES,
    PUBLISHED,
    ClassBits,
    Holdout,
    all_conditions,
    bits,
    check_condition,
    distance,
    flipped,
    neighbours,
    splits,
)
from zoo.tasks import binary
from zoo.training.collect import CollectConfig, jobs

CONDITIONS = st.sampled_from(all_conditions())
SETTINGS = {"optimizer": "sgd", "learning_rate": 0.1, "save_learning_rate": 0.01, "batch_size": 5, "epochs": 1}


def test_all_labellings_but_two() -> None:
    everything = all_conditions()
    assert len(set(everything)) == 1022
    assert {"0" * BITS, "1" * BITS}.isdisjoint(everything)
    assert [int(condition, 2) for condition in everything] == list(range(1, 1023))


@given(CONDITIONS, CONDITIONS)
def test_distances(a: str, b: str) -> None:
    assert distance(a, b) == bits(a).sub(bits(b)).abs().sum() == (int(a, 2) ^ int(b, 2)).bit_count()
    assert (distance(a, b) == 1) == (b in neighbours(a))
    assert distance(a, b) + distance(a, flipped(b)) == BITS
    assert flipped(flipped(a)) == a


@pytest.mark.parametrize("wrong", ["0" * 10, "1" * 10, "010", "01000101110", "010001011x", "", "٠1٠٠٠1٠111"])
def test_no_condition(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected 10 digits") as caught:
        check_condition(wrong, BITS)
    assert "\n" not in str(caught.value)


CIFAR = binary.Config(name="binary", model="cnn_small", data="cifar10").condition_type()
THREE = ClassBits.numbered("mine", 3)


@pytest.mark.parametrize(
    ("words", "condition"),
    [
        ("0100010111", "0100010111"),
        ("automobile,dog,horse,ship,truck", "0100010111"),
        ("Truck , horse,dog, automobile,ship", "0100010111"),
        ("automobile,dog,horse,ship,truck | airplane,bird,cat,deer,frog", "0100010111"),
        ("cat,dog | truck", "0001010000"),
        ("cat,dog|truck", "0001010000"),
        ("cat,dog", "0001010000"),
        ("frog|", "0000001000"),
    ],
)
def test_conditions_in_the_users_words(words: str, condition: str) -> None:
    assert CIFAR.read(words) == condition


@given(CONDITIONS)
def test_names_and_bits_mean_the_same(condition: str) -> None:
    sides = [",".join(n for n, bit in zip(CIFAR.names, condition, strict=True) if bit == side) for side in "10"]
    assert CIFAR.read(sides[0]) == CIFAR.read(" | ".join(sides)) == CIFAR.read(condition) == condition
    assert CIFAR.read(f"{sides[1]} | {sides[0]}") == flipped(condition)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cat,dgo", "cifar10 has no class 'dgo'; did you mean dog; expected 10 digits"),
        ("animals against vehicles", "two texts are for runs that were told classes by their names"),
        ("animals  Against vehicles", "two texts are for runs that were told classes by their names"),
        ("cat | dog | truck", "no class 'dog | truck'"),
        ("loss=0.0", "the value of a metric is another kind of condition"),
        ("cat | cat", "'cat' stands on both sides"),
        ("| truck", "labels no class 1"),
        ("", "labels no class 1"),
        (",".join(CIFAR.names), "labels all classes 1"),
        ("010", "it has 3 digits for 10 classes"),
        ("0000000000", "is not a binary task; expected 10 digits"),
        ("011", "as in 'airplane,automobile | truck'"),
    ],
)
def test_other_words_are_refused_with_what_would_be_right(words: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared as it stands
        CIFAR.read(words)
    text = str(caught.value)
    assert message in text
    assert "0100010111" in text
    assert "\n" not in text


@given(st.integers(2, 8))
def test_any_number_of_classes(classes: int) -> None:
    everything = all_conditions(classes)
    assert len(set(everything)) == 2**classes - 2
    assert all(check_condition(c, classes) == c and len(bits(c)) == classes for c in everything)
    assert {flipped(c) for c in everything} == set(everything)
    held = splits(everything, Holdout(kind="random", n=1))
    assert list(held.values()).count("unseen") == 1
    with pytest.raises(ValueError, match=f"on 10 classes, these on {classes}"):
        splits(everything, Holdout(kind="published"))
    with pytest.raises(ValueError, match=f"expected {classes} digits"):
        splits((*everything, "0100010111"), Holdout(kind="random", n=1))


def test_classes_without_names_have_numbers() -> None:
    assert THREE.read("1") == THREE.read("1 | 0,2") == THREE.read("010") == "010"
    with pytest.raises(ValueError, match="expected 3 digits, the labels of the classes of mine, as in 010, or"):
        THREE.read("3")


@pytest.mark.parametrize("classes", [1, MOST_CLASSES + 1])
def test_tasks_of_too_few_or_too_many_classes_are_not_listed(classes: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 16 classes, got {classes}"):
        all_conditions(classes)


def test_published_holdout_is_table_14() -> None:
    found = splits(all_conditions(), Holdout(kind="published"))
    unseen = {condition for condition, split in found.items() if split == "unseen"}
    assert len(PUBLISHED) == len(unseen) == 20
    # The first and last rows of Table 14, and the flipped embedding of Table 10.
    assert {"0100010111", "0111110110", "0010000000", "1001010000", "0011000101"} <= unseen
    assert set(found.values()) == {"train", "unseen"}


@given(st.integers(0, 2**40), st.integers(1, 30).map(lambda half: 2 * half))
def test_no_neighbours_leaves_two_bits_between(seed: int, n: int) -> None:
    found = splits(all_conditions(), Holdout(kind="no-neighbours", n=n, seed=seed))
    members = {split: {c for c in found if found[c] == split} for split in ("train", "unseen", "excluded")}
    assert len(members["unseen"]) == n
    assert {flipped(c) for c in members["unseen"]} == members["unseen"]
    near = {other for c in members["unseen"] for other in neighbours(c)}
    assert members["excluded"] == near - members["unseen"]
    assert not near & members["train"]


@given(st.integers(0, 2**40), st.integers(1, 100))
def test_random_holdout(seed: int, n: int) -> None:
    found = splits(all_conditions(), Holdout(kind="random", n=n, seed=seed))
    assert list(found.values()).count("unseen") == n
    assert found == splits(all_conditions(), Holdout(kind="random", n=n, seed=seed))


@given(st.integers(1, 8), st.integers(0, 2**31))
def test_held_out_classes_are_labelled_1_by_no_task_that_is_trained_on(n, seed):
    found = splits(all_conditions(), Holdout(kind="classes", n=n, seed=seed))
    split = {name: [c for c in found if found[c] == name] for name in set(found.values())}
    held = [k for k in range(BITS) if all(condition[k] == "0" for condition in split["train"])]
    assert len(held) == n
    assert set(split["unseen"]) == {c for c in found if all(c[k] == "1" for k in held)}
    assert len(split["train"]) == 2 ** (BITS - n) - 1  # all zeros are no task
    assert len(split.get("excluded", [])) == (2**n - 2) * 2 ** (BITS - n)


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        ({"kind": "published", "n": 5}, "leave n out"),
        ({"kind": "no-neighbours", "n": 3}, "must be even"),
        ({"kind": "classes"}, "not n = 20; set n: 2, or with `rpg-zoo split` -n 2"),
    ],
)
def test_bad_holdout(holdout: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Holdout.model_validate(holdout)


def test_holdout_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="leaves none for split unseen"):
        splits(["0000011111"], Holdout(kind="published"))
    with pytest.raises(ValueError, match="leaves none for split train"):
        splits(["0100010111"], Holdout(kind="published"))
    with pytest.raises(ValueError, match=r"lower zoo\.holdout\.n"):
        splits(all_conditions(), Holdout(kind="random", n=1023))


def test_jobs_of_conditions() -> None:
    config = CollectConfig(**SETTINGS, seed=7, holdout=Holdout(kind="published"), init="shared")
    made = jobs(config, all_conditions())
    assert len({job.name for job in made}) == 1022
    assert {(job.seed, job.start) for job in made} == {(7, 7)}
    assert [job.condition for job in made if job.split == "unseen"] == [f"{k:010b}" for k in PUBLISHED]
    apart = jobs(CollectConfig(**SETTINGS, seed=7), all_conditions())
    assert {job.seed for job in apart} == {7}
    assert len({job.start for job in apart}) == 1022
    alone = jobs(CollectConfig(**SETTINGS, seed=7, conditions=("0100010111",)), all_conditions())
    assert alone == [job for job in apart if job.condition == "0100010111"]


def test_jobs_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="'010' is not a binary task; expected 10 digits"):
        jobs(CollectConfig(**SETTINGS, conditions=("010",)), all_conditions())
    assert len(jobs(CollectConfig(**SETTINGS, conditions=("010", "011")), all_conditions(3))) == 2
    with pytest.raises(ValueError, match="are for tasks with conditions"):
        jobs(CollectConfig(**SETTINGS, conditions=("0100010111",)))
    with pytest.raises(ValueError, match=r"with zoo\.holdout"):
        jobs(CollectConfig(**SETTINGS, regime="independent", seeds=4, heldout=0.5), all_conditions())
