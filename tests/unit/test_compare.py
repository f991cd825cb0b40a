"""The comparison of groups, with networks of two weights whose errors and distances are known by heart."""

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.metrics import Evaluation, proportion
from rpg.compare import compare
from rpg.config import EvalConfig
from rpg.verdict import judge
from zoo.manifest import Origin
from zoo.store import Zoo, ZooWriter
from zoo.structure import Structure

ORIGIN = Origin(
    name="toy", kind="collected", task="toy", recipe="task: {}\n", recipe_sha256="0" * 64, command=("x",), versions={}
)


class IntervalTask:
    """A network of weights (a, b) is right on the samples a <= i < b of 0..99."""

    conditions = ()
    evaluator, protocol, main_metric = "interval/1", "interval test", "top1"

    def build(self, seed):
        model = nn.Module()
        model.register_buffer("ends", torch.zeros(2))
        return model

    def load(self, model, weights):
        model.ends.copy_(weights["ends"])

    def evaluate(self, model, split):
        low, high = model.ends.tolist()
        correct = np.array([low <= i < high for i in range(100)])
        return Evaluation((proportion("top1", correct),), correct)


def make(path, ends, split="train", parents=(), seeds=None):
    with ZooWriter(path, ORIGIN, Structure.of({"ends": torch.zeros(2)})) as writer:
        for index, pair in enumerate(ends):
            seed = index if seeds is None else seeds[index]
            writer.add(f"net-{index}", {"ends": torch.tensor(pair)}, seed=seed, split=split, parents=parents)
        return writer.finish()


CONFIG = EvalConfig(n=3, average_of=2, noise=(0.5,))
ORIGINALS = [(0.0, 80.0), (0.0, 84.0), (3.0, 80.0), (10.0, 90.0)]
GENERATED = [(0.0, 80.0), (0.0, 100.0), (50.0, 60.0)]


@pytest.fixture
def result(tmp_path):
    originals = make(tmp_path / "originals", ORIGINALS)
    generated = make(tmp_path / "generated", GENERATED, "generated", [originals.entries[0].sha256])
    return compare(originals, generated, IntervalTask(), CONFIG, ORIGIN, tmp_path / "out")


def test_originals_are_those_of_the_split_that_was_learnt(tmp_path):
    """A generator can learn from generated networks (`rpg train --split generated`)."""
    originals = make(tmp_path / "originals", ORIGINALS, "generated")
    made = make(tmp_path / "made", GENERATED, "generated", [originals.entries[3].sha256])
    result = compare(originals, made, IntervalTask(), CONFIG, ORIGIN, tmp_path / "out")
    assert result.group("original").accuracy == (80, 84, 77, 80)
    orphans = make(tmp_path / "orphans", GENERATED, "generated")
    with pytest.raises(ValueError, match="was not generated from"):
        compare(originals, orphans, IntervalTask(), CONFIG, ORIGIN, tmp_path / "out")


def test_yardsticks_leave_the_network_itself_out(result):
    # Nearest other: 3 (to the third), 4 (to the first), 3 (to the first), and hypot(10, 6) (to the second).
    assert result.group("original").nearest == pytest.approx((3, 4, 3, np.hypot(10, 6)))
    assert result.leave_one_out_distance == pytest.approx(3.5)
    # Errors: 80..99, 84..99, {0,1,2} and 80..99, {0..9} and 90..99.
    assert result.group("original").max_error_iou == pytest.approx((20 / 23, 16 / 20, 20 / 23, 13 / 30))
    assert result.leave_one_out_iou == pytest.approx((20 / 23 + 16 / 20) / 2)
    assert result.good_from == 80 - 2


def test_checkpoints_of_several_runs_are_measured_by_those_of_other_runs(tmp_path):
    """Two runs of two checkpoints 0.1 apart; a copy of one with noise of 2 is far from it, but no new network."""
    ends = [(0.0, 80.0), (0.1, 80.0), (6.0, 86.0), (6.1, 86.0)]
    results = []
    for name, seeds in (("one", [7, 7, 7, 7]), ("two", [0, 0, 1, 1])):
        originals = make(tmp_path / f"{name}-originals", ends, seeds=seeds)
        noisy = make(tmp_path / f"{name}-noisy", [(2.0, 80.0)], "generated", [originals.entries[0].sha256])
        results.append(compare(originals, noisy, IntervalTask(), CONFIG, ORIGIN, tmp_path / f"{name}-out"))
    one, two = results
    assert (one.runs, two.runs) == (1, 2)
    assert one.group("original").nearest == pytest.approx((0.1, 0.1, 0.1, 0.1))
    assert two.group("original").nearest == pytest.approx(np.hypot([6, 5.9, 5.9, 6], 6))
    assert two.leave_one_out_iou < one.leave_one_out_iou
    assert one.group("generated").nearest == two.group("generated").nearest == pytest.approx((1.9,))
    assert one.group("generated").novel_and_good == 100
    assert two.group("generated").novel_and_good == 0
    weights = [dict(judge(result).findings)["Weights"] for result in results]
    assert "its nearest other one" in weights[0]
    assert "they are not copies" in weights[0]
    assert "its nearest one of another run" in weights[1]
    assert "they are near-copies" in weights[1]


def test_a_copy_a_novelty_and_a_failure_are_told_apart(result):
    group = result.group("generated")
    assert group.accuracy == (80, 100, 10)
    assert group.nearest == pytest.approx((0, np.hypot(10, 10), np.hypot(40, 30)))
    assert group.nearest_ratio == pytest.approx(tuple(distance / 3.5 for distance in group.nearest))
    assert group.max_error_iou[:2] == (1, 0)
    assert group.novel_and_good == pytest.approx(100 / 3)
    assert group.metrics["top1"].best == 100


def test_baselines_are_made_of_the_training_checkpoints(result, tmp_path):
    names = [group.name for group in result.groups]
    assert names == ["original", "generated", "noised_0.5", "mean_of_all", "average_of_2", "gaussian"]
    mean = Zoo.open(tmp_path / "out" / "baselines" / "mean_of_all")
    assert mean.load(mean.entries[0])["ends"].tolist() == [3.25, 83.5]
    assert result.group("mean_of_all").accuracy == (80,)
    assert result.group("mean_of_all").spread == 0


def test_zoos_of_different_networks_are_not_compared(tmp_path):
    originals = make(tmp_path / "originals", [(0.0, 80.0), (0.0, 84.0)])
    with ZooWriter(tmp_path / "other", ORIGIN, Structure.of({"other": torch.zeros(2)})) as writer:
        writer.add("net-0", {"other": torch.zeros(2)}, seed=0, split="generated")
        other = writer.finish()
    with pytest.raises(ValueError, match="different models: missing: ends"):
        compare(originals, other, IntervalTask(), EvalConfig(), ORIGIN, tmp_path / "out")
