"""What alignment is worth: the numbers of the table against closed forms, and their direction on a planted zoo."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symmetry_cases import case, copies, moved_copies, random_weights
from zoo.derive.align import align, read_alignment
from zoo.derive.alignment import AlignConfig
from zoo.derive.worth import (
    Pair,
    counting,
    looked_at,
    participation,
    read_worth,
    round_trip,
    table,
    vectors,
    worth,
    write_worth,
)
from zoo.manifest import Origin
from zoo.structure import Structure
from zoo.tasks.recalibrated import recalibrate
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_participation_counts_equal_directions():
    rows = torch.cat([torch.eye(7), -torch.eye(7)]).double() @ torch.diag(torch.tensor([1.0] * 5 + [0.0] * 2).double())
    assert participation(3 + rows) == pytest.approx(5)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(normal(20, 6).mT))
    assert participation(torch.ones(4, 3).double()) == 0  # equal networks vary in no direction
    assert participation(normal(20, 6)) == pytest.approx(float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()))


def test_the_round_trip_is_a_projection_on_principal_components():
    training, new = normal(12, 30), normal(4, 30, seed=1)
    found = round_trip(training, new, 5)
    mean = training.mean(0)
    basis = torch.linalg.svd(training - mean, full_matrices=False).Vh[:5]
    torch.testing.assert_close(found, mean + (new - mean) @ basis.mT @ basis)
    torch.testing.assert_close(round_trip(training, found, 5), found)
    torch.testing.assert_close(round_trip(training, training, 11), training)


def test_recalibration_gives_the_statistics_of_the_images():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].running_mean.fill_(9.0)
    batches = [normal(40, 3, seed=k).float() * 2 + 1 for k in range(5)]
    recalibrate(model, batches)
    torch.testing.assert_close(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert model[0].momentum == 0.1
    assert not model.training


def test_statistics_do_not_count(tmp_path):
    structure = Structure.of(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).state_dict())
    assert counting(structure).tolist() == [True] * 6 + [False] * 6 + [True] * 8


def planted_zoo(path, n=40):
    """Noised copies of one network, each moved: a zoo whose mean is that network, if only it is aligned."""
    network, build, inputs = case("relu")
    specification = build(network)
    weights = random_weights(network)
    stack, _ = moved_copies(specification, copies(weights, n, noise=0.1))
    with ZooWriter(path, ORIGIN, Structure.of(network.state_dict())) as writer:
        for k in range(n):
            writer.add(f"n{k:02d}", {m: t[k] for m, t in stack.items()}, seed=k, split="train" if k < n - 4 else "held")
        zoo = writer.finish()
    inputs = normal(200, inputs.shape[1])

    def outputs(w):
        network.load_state_dict(dict(w))
        with torch.no_grad():
            return network(inputs)

    labels = outputs({m: t[0] for m, t in weights.items()}).argmax(1)

    def measure(w):
        out = outputs(w)
        return float(F.cross_entropy(out, labels)), 100 * float((out.argmax(1) == labels).double().mean())

    return zoo, specification, measure


def test_alignment_gains_what_it_should_on_a_planted_zoo(tmp_path):
    zoo, specification, measure = planted_zoo(tmp_path / "zoo")
    aligned = align(AlignConfig(restarts=2), zoo, specification, ORIGIN, tmp_path / "aligned")
    about = read_alignment(aligned)
    found = worth(zoo, aligned, Pair(raw=about.before, aligned=about.shares[-1]), measure, draws=4)
    assert (found.networks, found.held_out) == (36, 4)
    assert found.behaviour.mean.aligned > 97
    assert found.behaviour.mean.raw < 75
    assert found.behaviour.midpoint.aligned > found.behaviour.midpoint.raw + 10
    assert found.behaviour.soup.aligned > found.behaviour.soup.raw + 20
    assert found.objective.aligned > 0.9
    assert found.objective.raw < 0.3
    assert found.behaviour.barrier.aligned < 0.1 * found.behaviour.barrier.raw
    assert list(found.behaviour.codes) == [32]
    assert found.behaviour.codes[32].aligned > found.behaviour.codes[32].raw + 10
    matrix = vectors(aligned, aligned.select("train"))
    assert found.participation.aligned == pytest.approx(participation(matrix))
    assert found.behaviour.aligned_line[0] == pytest.approx(
        found.behaviour.raw_line[0], rel=1e-4
    )  # the ends are what they were
    text = table(found)
    assert f"{found.behaviour.mean.aligned:.2f}" in text
    assert "36 networks, 4 held out" in text
    assert "nothing was gained" not in text
    alone = worth(zoo, aligned, found.objective, None)
    assert alone.behaviour is None
    assert alone.participation.raw == pytest.approx(found.participation.raw)
    assert "midpoint" not in table(alone)
    assert read_worth(tmp_path, aligned) is None
    write_worth(tmp_path, found)
    assert read_worth(tmp_path, aligned) == found
    assert read_worth(tmp_path, zoo) is None  # that of another zoo


def test_the_same_zoo_twice_shows_that_nothing_was_gained(tmp_path):
    zoo, _, measure = planted_zoo(tmp_path / "zoo", n=12)
    found = worth(zoo, zoo, Pair(raw=0.2, aligned=0.2), measure, draws=4)
    assert found.participation.raw == found.participation.aligned
    assert "nothing was gained" in table(found)
    assert found.behaviour.mean.raw == found.behaviour.mean.aligned
    other, *_ = planted_zoo(tmp_path / "other", n=8)
    with pytest.raises(ValueError, match="does not hold the networks"):
        worth(zoo, other, Pair(raw=0, aligned=0), measure)


def test_of_several_checkpoints_of_a_run_the_last_is_looked_at(tmp_path):
    """Midpoints of two checkpoints of one run say nothing of runs."""

    def made(path, seeds):
        with ZooWriter(path, ORIGIN, Structure.of({"w": torch.zeros(2)})) as writer:
            for seed in range(seeds):
                for step in (1, 2, 3):
                    split = "heldout" if seed == 2 else "train"
                    writer.add(f"{seed}-{step}", {"w": torch.randn(2)}, seed=seed, step=step, split=split)
            return writer.finish()

    zoo, one = made(tmp_path / "zoo", 3), made(tmp_path / "one", 1)
    assert [[zoo.entries[k].id for k in rows] for rows in looked_at(zoo)] == [["0-3", "1-3"], ["2-3"]]
    assert [[one.entries[k].id for k in rows] for rows in looked_at(one)] == [["0-1", "0-2", "0-3"], []]


def test_early_checkpoints_are_not_held_out(tmp_path):
    """They are of the trainings that are looked at."""
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of({"w": torch.zeros(2)})) as writer:
        for seed, split in enumerate(("train", "train", "heldout")):
            for step, own in ((0, "early"), (9, split)):
                writer.add(f"{seed}-{step}", {"w": torch.randn(2)}, seed=seed, step=step, split=own)
        zoo = writer.finish()
    training, others = looked_at(zoo)
    assert [zoo.entries[k].id for k in training] == ["0-9", "1-9"]
    assert [zoo.entries[k].id for k in others] == ["2-9"]
