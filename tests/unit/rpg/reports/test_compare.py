"""The comparison of groups, with networks of two weights whose errors and distances are known by heart."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.metrics import Evaluation, proportion
from rpg.reports.compare import Candidate, compare
from rpg.reports.labels import labels
from rpg.reports.printed import comparison_json
from rpg.reports.report import measures, write_report
from rpg.reports.verdict import judge
from zoo.errors import Corrupt, Failed
from zoo.hub.card import zoo_card
from zoo.manifest import Origin
from zoo.structure import Structure
from zoo.symmetry.specification import Factor, Group, Specification, TensorAxes
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})


class IntervalTask:
    """A network of weights (a, b) is right on the samples a <= i < b of 0..99."""

    conditions = ()
    evaluator, protocol, main_metric = "interval/1", "interval test", "top1"
    chance = {"top1": 50.0}  # noqa: RUF012

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


class SymmetricTask(IntervalTask):
    """The same for (b, a)."""

    def load(self, model, weights):
        model.ends.copy_(weights["ends"].sort().values)


def make(path, ends, split="train", seeds=None, heldout=0, origin=ORIGIN, parents=()):
    """A zoo of these networks; the last `heldout` of them are held out."""
    with ZooWriter(path, origin, Structure.of({"ends": torch.zeros(2)})) as writer:
        for index, pair in enumerate(ends):
            seed = index if seeds is None else seeds[index]
            own = "heldout" if index >= len(ends) - heldout else split
            writer.add(f"net-{index}", {"ends": torch.tensor(pair)}, seed=seed, split=own, parents=parents)
        return writer.finish()


ORIGINALS = [(0.0, 80.0), (0.0, 84.0), (3.0, 80.0), (10.0, 90.0)]
GENERATED = [(0.0, 80.0), (0.0, 100.0), (50.0, 60.0)]
MEAN = [(3.25, 83.5)]
SWAPS = Specification(  # the two weights may change places
    groups={"ends": Group(size=2)}, tensors={"ends": TensorAxes(axes=(((Factor(size=2, group="ends"),),),))}
)


@pytest.fixture
def originals(tmp_path):
    return make(tmp_path / "originals", ORIGINALS)


@pytest.fixture
def generated(tmp_path):
    return make(tmp_path / "generated", GENERATED, "generated")


@pytest.fixture
def candidates(tmp_path, generated):
    mean = make(tmp_path / "mean", MEAN, "mean")
    return [Candidate("soup", mean, "baseline", "a mean"), Candidate("mine", generated, "generated")]


@pytest.fixture
def result(originals, candidates, tmp_path):
    return compare(originals, "train", candidates, IntervalTask(), tmp_path / "out")


def test_groups_are_the_callers_and_their_order_is_by_kind(result):
    assert [(group.name, group.kind) for group in result.groups] == [
        ("original", "original"), ("mine", "generated"), ("soup", "baseline")
    ]  # fmt: skip
    assert (result.group("soup").about, result.group("mine").about) == ("a mean", "networks from a generator")
    assert result.group("soup").scored.accuracy == (80,)
    assert result.group("soup").spread == 0


@pytest.mark.parametrize(("settings", "count"), [({}, 3), ({"n": 5}, 5)])
def test_the_best_of_many_candidates_are_called_a_selection(originals, tmp_path, settings, count):
    origin = ORIGIN.model_copy(update={"settings": {"generate": {**settings, "candidates": 50}}})
    best = make(tmp_path / "best", GENERATED, "generated", origin=origin)
    found = compare(originals, "train", [Candidate("mine", best, "generated")], IntervalTask(), tmp_path / "report")
    said = f"the best {count} of 50 candidates by validation score, a selection, whose mean is not that of what"
    assert found.group("mine").about.startswith(f"networks from a generator, {said}")
    for made, chosen in ((origin, True), (ORIGIN, False)):
        known = made.model_copy(update={"task": {}})  # a card looks at the task, and this one is a toy
        shown = make(tmp_path / f"shown-{chosen}", GENERATED, "generated", origin=known)
        assert (f"They are {said}" in zoo_card(shown, "user/best", "mit")) == chosen


def test_yardsticks_leave_the_network_itself_out(result):
    # Nearest other: 3 (to the third), 4 (to the first), 3 (to the first), and hypot(10, 6) (to the second).
    assert result.original.nearest == pytest.approx((3, 4, 3, np.hypot(10, 6)))
    assert result.leave_one_out_distance == pytest.approx(3.5)
    # Errors: 80..99, 84..99, {0,1,2} and 80..99, {0..9} and 90..99.
    assert result.original.scored.max_error_iou == pytest.approx((20 / 23, 16 / 20, 20 / 23, 13 / 30))
    assert result.scoring.leave_one_out_iou == pytest.approx((20 / 23 + 16 / 20) / 2)
    assert result.scoring.good_from == 80 - 2


def test_checkpoints_of_several_runs_are_measured_by_those_of_other_runs(tmp_path):
    """Two runs of two checkpoints 0.1 apart; a copy of one with noise of 2 is far from it, but no new network."""
    ends = [(0.0, 80.0), (0.1, 80.0), (6.0, 86.0), (6.1, 86.0)]
    noisy = Candidate("noisy", make(tmp_path / "noisy", [(2.0, 80.0)]), "generated")
    results = []
    for name, seeds in (("one", [7, 7, 7, 7]), ("two", [0, 0, 1, 1])):
        originals = make(tmp_path / f"{name}-originals", ends, seeds=seeds)
        results.append(compare(originals, "train", [noisy], IntervalTask(), tmp_path / f"{name}-out"))
    one, two = results
    assert (one.runs, two.runs) == (1, 2)
    assert one.original.nearest == pytest.approx((0.1, 0.1, 0.1, 0.1))
    assert two.original.nearest == pytest.approx(np.hypot([6, 5.9, 5.9, 6], 6))
    assert two.scoring.leave_one_out_iou < one.scoring.leave_one_out_iou
    assert one.group("noisy").nearest == two.group("noisy").nearest == pytest.approx((1.9,))
    assert one.group("noisy").scored.novel_and_good == 100
    assert two.group("noisy").scored.novel_and_good == 0
    weights = [dict(judge(result)[0].findings)["Weights"] for result in results]
    assert "its nearest other one" in weights[0]
    assert "they are not copies" in weights[0]
    assert "its nearest one of another run" in weights[1]
    assert "They lie near: copies, if" in weights[1]


def test_a_copy_a_novelty_and_a_failure_are_told_apart(result):
    group, behaviour = result.group("mine"), result.group("mine").scored
    assert behaviour.accuracy == (80, 100, 10)
    assert group.nearest == pytest.approx((0, np.hypot(10, 10), np.hypot(40, 30)))
    assert group.nearest_ratio == pytest.approx(tuple(distance / 3.5 for distance in group.nearest))
    assert behaviour.max_error_iou[:2] == (1, 0)
    assert behaviour.novel_and_good == pytest.approx(100 / 3)
    assert behaviour.metrics["top1"].best == 100
    assert behaviour.stderr == pytest.approx(4)  # of 80 of 100; the others are further from a half


def test_seeds_of_one_generator_are_one_group(originals, tmp_path):
    """Seed 0 makes networks at 80 and 100, seed 1 one at 10."""
    zoos = [make(tmp_path / "seed0", GENERATED[:2]), make(tmp_path / "seed1", GENERATED[2:])]
    seeds = [Candidate("mine", zoo, "generated") for zoo in zoos]
    group = compare(originals, "train", seeds, IntervalTask(), tmp_path / "out").group("mine")
    assert group.seeds == (2, 1)
    assert group.scored.accuracy == (80, 100, 10)
    over = group.over_seeds(group.scored.accuracy)
    assert (over.mean, over.std, over.n) == pytest.approx((50, 40 * np.sqrt(2), 2))
    assert group.scored.metrics["top1"].mean == pytest.approx(190 / 3)


def test_draws_of_one_run_are_one_seed(originals, tmp_path):
    """Two zoos of one run with one of another between them."""
    runs = [ORIGIN.model_copy(update={"parents": (letter * 64,)}) for letter in "aba"]
    zoos = [make(tmp_path / f"draw{k}", [GENERATED[k]], origin=run) for k, run in enumerate(runs)]
    draws = [Candidate("mine", zoo, "generated") for zoo in zoos]
    group = compare(originals, "train", draws, IntervalTask(), tmp_path / "out").group("mine")
    assert group.seeds == (2, 1)
    assert group.scored.accuracy == (80, 10, 100)
    assert group.over_seeds(group.scored.accuracy).mean == pytest.approx((45 + 100) / 2)


def test_zoos_are_told_apart_by_their_places_where_names_do_not(tmp_path):
    """Of one method with other settings; those that differ in their seeds alone are called alike."""
    drawn = []
    for place, sigma, seed in (("a", 0.1, 0), ("b", 0.2, 0), ("c", 0.2, 1)):
        settings = {"method": {"name": "noise", "sigma": sigma, "seed": seed}}
        origin = ORIGIN.model_copy(update={"kind": "generated", "settings": settings})
        drawn.append(make(tmp_path / place / "gen", [(float(seed), sigma)], origin=origin))
    names = labels(drawn)
    assert [names[zoo.sha256] for zoo in drawn] == [str(drawn[k].path) for k in (0, 1, 1)]


def test_where_originals_have_twins_what_is_novel_is_counted_in_one_unit(tmp_path):
    """The yardstick is 0: whatever is no copy is novel, by every column."""
    twins = make(tmp_path / "twins", [ORIGINALS[0], ORIGINALS[1]] * 2)
    near = Candidate("near", make(tmp_path / "near", [(0.0, 80.0), (0.0, 80.1)], "generated"), "generated")
    result = compare(twins, "train", [near], IntervalTask(), tmp_path / "out", lambda: SWAPS)
    assert result.leave_one_out_distance == 0
    found = measures(result, result.group("near"))
    assert [found[name] for name in ("novel and good, %", "at .95, %", "novel and good aligned, %")] == [50.0] * 3


def test_one_seed_is_the_whole_group(result):
    group = result.group("mine")
    over = group.over_seeds(group.nearest)
    assert (over.mean, over.std, over.n) == (pytest.approx(np.mean(group.nearest)), 0, 1)


def test_weights_alone_where_the_task_is_unknown(originals, candidates, result, tmp_path):
    alone = compare(originals, "train", candidates, None, tmp_path / "alone")
    assert alone.scoring is None
    for with_scores, without in zip(result.groups, alone.groups, strict=True):
        assert without == with_scores.model_copy(update={"behaviour": None})
    assert not (tmp_path / "alone").exists()
    shown = comparison_json(alone)
    assert set(shown["groups"]["mine"]["similarity"]) == {"nearest_distance", "nearest_ratio", "spread"}
    assert "metrics" not in shown["groups"]["mine"]


def test_json_holds_every_group(result):
    shown = json.loads(json.dumps(comparison_json(result), allow_nan=False))
    assert set(shown["groups"]) == {"original", "mine", "soup"}
    mine = shown["groups"]["mine"]
    assert (mine["kind"], mine["seeds"], mine["metrics"]["top1"]["best"]) == ("generated", 1, 100)
    assert mine["similarity"]["nearest_distance"]["n"] == 3


def test_held_out_originals_are_a_group_unless_they_were_learnt(tmp_path, generated):
    originals = make(tmp_path / "originals", ORIGINALS + MEAN + [(1.0, 79.0)], heldout=2)
    candidate = Candidate("mine", generated, "generated")
    result = compare(originals, "train", [candidate], IntervalTask(), tmp_path / "out")
    assert [group.kind for group in result.groups] == ["original", "heldout", "generated"]
    assert result.original.scored.accuracy == (80, 84, 77, 80)
    assert result.group("heldout").scored.accuracy == (80, 78)
    learnt = compare(originals, "heldout", [candidate], None, tmp_path / "other")
    assert [group.kind for group in learnt.groups] == ["original", "generated"]


def test_what_cannot_be_compared_is_refused_before_any_work(originals, generated, candidates, tmp_path):
    with ZooWriter(tmp_path / "other", ORIGIN, Structure.of({"other": torch.zeros(2)})) as writer:
        writer.add("net-0", {"other": torch.zeros(2)}, seed=0, split="generated")
        other = writer.finish()
    mine = Candidate("mine", generated, "generated")
    for given, words in (
        ([Candidate("other", other, "generated")], "different models: missing: ends"),
        ([Candidate("original", generated, "generated")], "is named 'original'; expected a name of its own"),
        ([Candidate("", generated, "generated")], "is named ''"),
        ([mine, mine], "mine holds the same networks twice"),
        ([mine, Candidate("mine", candidates[0].zoo, "baseline")], "of generated networks and of baselines"),
    ):
        with pytest.raises(ValueError, match=words):
            compare(originals, "train", given, IntervalTask(), tmp_path / "out")
    single = make(tmp_path / "single", ORIGINALS[:1])
    with pytest.raises(ValueError, match="has one checkpoint of split train"):
        compare(single, "train", [mine], IntervalTask(), tmp_path / "out")
    with pytest.raises(ValueError, match="no checkpoints of split 'trian'"):
        compare(originals, "trian", [mine], IntervalTask(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_have_no_distance(originals, tmp_path):
    broken = make(tmp_path / "broken", [(1.0, 80.0), (float("nan"), 1.0)])
    with pytest.raises(Failed, match=r"net-1 of .*broken"):
        compare(originals, "train", [Candidate("mine", broken, "generated")], IntervalTask(), tmp_path / "out")


def test_a_place_with_another_report_is_refused_before_any_work(originals, candidates, result, tmp_path):
    write_report(result, {}, {}, tmp_path / "out")
    again = compare(originals, "train", candidates, IntervalTask(), tmp_path / "out")
    assert again == result
    scores = (tmp_path / "out" / "scores.jsonl").read_bytes()
    others = [Candidate("mine", make(tmp_path / "others", GENERATED[:2]), "generated")]
    with pytest.raises(
        ValueError, match=r"another report \(generated mine: 3 networks \w+ there, 2 networks \w+ now; "
    ):
        compare(originals, "train", others, IntervalTask(), tmp_path / "out")
    with pytest.raises(ValueError, match="evaluator: interval/1 there, none now; protocol: interval test there, none"):
        compare(originals, "train", candidates, None, tmp_path / "out")
    assert (tmp_path / "out" / "scores.jsonl").read_bytes() == scores
    (tmp_path / "out" / "report.json").write_text("[]")
    with pytest.raises(Corrupt, match="not a report of ours"):
        compare(originals, "train", candidates, IntervalTask(), tmp_path / "out")


def test_distances_after_alignment_stand_beside_the_others(tmp_path, originals):
    """Where the two weights may change places, a copy with places changed is a copy."""
    ends = [(80.0, 0.0), (90.0, 14.0)]  # the first with its places changed; 4 away from the last
    swapped = Candidate("swapped", make(tmp_path / "swapped", ends, "generated"), "generated")
    result = compare(originals, "train", [swapped], IntervalTask(), tmp_path / "out", lambda: SWAPS)
    group = result.group("swapped")
    assert min(group.nearest) > 100
    assert group.aligned.nearest == pytest.approx((0, 4))
    assert result.original.aligned.nearest == pytest.approx(result.original.nearest)
    assert group.aligned.nearest_ratio == pytest.approx((0, 4 / 3.5))
    assert group.aligned.spread == pytest.approx(np.hypot(10, 14) / 2**0.5 / 3.5)
    assert group.aligned.novel_and_good == 0  # the second is new, but right on nothing
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.jsonl"}  # what was aligned is gone
    shown = comparison_json(result)["groups"]["swapped"]["similarity"]
    assert shown["aligned"]["nearest_ratio"]["best"] == pytest.approx(0)
    place = write_report(result, {}, {}, tmp_path / "out")
    text = place.with_name("report.md").read_text()
    assert "distance aligned, median" in text
    alone = compare(originals, "train", [swapped], None, tmp_path / "alone", lambda: SWAPS)
    assert "After alignment 50% (1 of 2) are, and the median distance is 0.57 of the yardstick" in str(
        judge(alone)[0].findings
    )
    plain = compare(originals, "train", [swapped], IntervalTask(), tmp_path / "plain")
    assert "aligned" not in write_report(plain, {}, {}, tmp_path / "plain").with_name("report.md").read_text()


def test_copies_in_another_order_are_copies(tmp_path, originals):
    """Farther from every original than these from one another, as they are; but what they compute, they have learnt by
    heart.
    """
    copies = Candidate("copies", make(tmp_path / "copies", [(b, a) for a, b in ORIGINALS], "generated"), "generated")
    result = compare(originals, "train", [copies], SymmetricTask(), tmp_path / "out", lambda: SWAPS)
    assert min(result.group("copies").nearest) > 100
    (verdict,) = judge(result)
    assert "They are near-copies: in weights, after alignment, and in errors closer to a" in verdict.headline
    assert "0% (0 of 4) of the generated networks are closer" in dict(verdict.findings)["Weights"]
    assert "They lie near: copies" in dict(verdict.findings)["Weights"]
    alone = judge(compare(originals, "train", [copies], None, tmp_path / "alone", lambda: SWAPS))[0].headline
    assert "They are, after alignment, closer to a training checkpoint" in alone
    noisy = [(a + 0.5, b) for a, b in ORIGINALS]  # near as they are
    near = Candidate("near", make(tmp_path / "near", noisy, "generated"), "generated")
    both = judge(compare(originals, "train", [near], SymmetricTask(), tmp_path / "near-out", lambda: SWAPS))[0]
    assert "near-copies: in weights and in errors closer" in both.headline


def test_how_many_are_good_beyond_most_of_both_yardsticks(tmp_path, originals):
    """Yardstick 3.5: the first is 3.4 from the nearest in both distances, the second 0.1 with its places changed."""
    ends = [(0.0, 87.4), (80.1, 0.0)]
    group = Candidate("mine", make(tmp_path / "mine", ends, "generated"), "generated")
    result = compare(originals, "train", [group], SymmetricTask(), tmp_path / "out", lambda: SWAPS)
    found = measures(result, result.group("mine"))
    assert (found["novel and good aligned, %"], found["at .95 aligned, %"]) == (0, 50)
    assert found["at .95, %"] == 100


def test_what_was_made_of_held_out_originals_is_no_sample_beside_them(tmp_path):
    rng = np.random.default_rng(0)
    ends = [tuple(map(float, pair)) for pair in rng.normal([10, 80], 3, (20, 2))]
    zoo = make(tmp_path / "zoo", ends, heldout=8)
    coded = make(tmp_path / "coded", ends[-8:], "x", parents=(zoo.entries[-1].sha256,))
    fresh = make(tmp_path / "fresh", [(a + 1, b) for a, b in ends[:8]], "x")
    groups = [Candidate("coded", coded, "reconstructed"), Candidate("fresh", fresh, "generated")]
    result = compare(zoo, "train", groups, IntervalTask(), tmp_path / "out")
    assert result.group("coded").distribution is None
    assert result.group("fresh").distribution is not None
