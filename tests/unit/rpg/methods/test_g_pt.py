"""G.pt: networks that move along lines with their loss are found at the loss that is asked for; its transformer's
parts; bytes after interruptions; what it refuses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from along_a_line import away, trainings_zoo
from hypothesis import given
from hypothesis import strategies as st
from tokenised import TASK, digits_networks, digits_task

import rpg.api
import rpg.methods.g_pt.method
import rpg.methods.g_pt.starts
from evaluators.metrics import Metric
from learning import content, train
from rpg.api import plan_generation
from rpg.conditions.scalars import waves
from rpg.devices import DEVICES
from rpg.methods.base import TrainingSet
from rpg.methods.chunked import TransformerConfig, token_sizes
from rpg.methods.g_pt.config import Config, GPTDraw
from rpg.methods.g_pt.model import Denoiser
from rpg.methods.g_pt.prompts import trainings
from rpg.methods.g_pt.starts import Starts
from rpg.run import Run, wanted_conditions
from rpg.tokens.layout import Layout
from rpg.tokens.permutations import permutations_of, reordered
from zoo.conditions import MetricTarget
from zoo.errors import MissingData
from zoo.manifest import Origin
from zoo.recipe import load_method, task_of
from zoo.seeds import derive_seed, generator
from zoo.store import Zoo
from zoo.structure import Structure, TensorSpec
from zoo.writer import ZooWriter

CPU = torch.device("cpu")
TRANSFORMER: dict[str, Any] = {
    "chunk": 32,
    "width": 32,
    "layers": 1,
    "heads": 2,
    "frequencies": 8,
    "octaves": 2,
    "steps": 150,
    "batch_size": 64,
    "learning_rate": 1e-2,
    "gradient_clipping": 1.0,
    "ema": 0.98,
    "save_every": 10,
}
FEW: dict[str, Any] = {"sampler": "dpm++", "steps": 10}


def config(transformer: dict[str, Any] = TRANSFORMER, **others: Any) -> Config:
    return Config.model_validate({"name": "g.pt", "permutations": False, "transformer": transformer, **others})


TWO_STEPS = {**TRANSFORMER, "chunk": 576, "steps": 2, "batch_size": 4}  # for networks of digits
BRIEF = config({**TRANSFORMER, "steps": 20, "batch_size": 4})


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return trainings_zoo(tmp_path_factory.mktemp("g.pt") / "zoo", range(40))


@pytest.fixture(scope="module")
def run(zoo) -> Run:
    return train(config(), zoo, zoo.path.parent / "run")


@pytest.fixture(scope="module")
def new(zoo) -> Zoo:
    """Three trainings that the run never saw, early ones at a loss that no checkpoint had."""
    return trainings_zoo(zoo.path.parent / "new", range(100, 103), (1.9, 0.4))


def made(run: Run, path: Path, **request: Any) -> Zoo:
    return plan_generation(run, {**FEW, **request}, out=path, device="cpu").carry_out()


# What is learnt


def test_what_is_asked_for_is_where_it_lies_on_the_line(run, new, tmp_path) -> None:
    """Of trainings that were never seen, each on its own line, at losses of checkpoints and at others."""
    asked, begun = (1.2, 1.0, 0.7, 0.5), new.select("early")
    found = made(
        run, tmp_path / "made", n=3, conditions=[f"loss={loss}" for loss in asked], start=str(new.path), chosen="early"
    )
    by_id = {entry.id: entry for entry in found.entries}
    assert len(by_id) == 12
    for k, start in enumerate(begun):
        for loss in asked:
            entry = by_id[f"generated-loss-{loss}-{k:04d}"]
            assert entry.parents == (start.sha256,)
            assert away(found.load(entry), start.seed, loss) < 0.1  # of 0.4 between checkpoints
    assert run.facts == {"checkpoints": 200, "trainings": 40, "metric": "loss", "lowest": 0.4, "highest": 2.0}


def test_a_network_is_a_function_of_its_seed_condition_and_number(run, new, tmp_path) -> None:
    start = {"start": str(new.path), "chosen": "early"}
    few = made(run, tmp_path / "few", n=2, conditions=["loss=0.5"], **start)
    many = made(run, tmp_path / "many", n=18, conditions=["loss=1.0", "loss=0.5"], **start)
    other = made(run, tmp_path / "other", n=2, conditions=["loss=0.5"], **start, seed=1)
    for entry in few.entries:
        torch.testing.assert_close(few.load(entry), many.load(many.entry(entry.id)), rtol=1e-4, atol=1e-4)
        assert not torch.equal(few.load(entry)["bias"], other.load(other.entry(entry.id))["bias"])


def test_the_zoo_it_starts_from_belongs_to_what_is_made_and_its_place_does_not(run, new, tmp_path) -> None:
    plan = plan_generation(run, {"conditions": ["loss=0.5"], "start": str(new.path)}, out=tmp_path / "made")
    assert plan.origin.parents == (run.sha256, new.sha256)
    assert "start" not in str(plan.origin.settings["generate"])
    assert plan.count == 10
    part = plan_generation(run, {"conditions": ["loss=0.5"], "start": str(new.path), "chosen": "early"}, out=plan.path)
    assert plan.origin.differences(part.origin) == ['generate.chosen (default) -> "early"']


# Parts


def test_waves_are_sines_and_cosines_from_one_to_the_highest_octave() -> None:
    values = torch.tensor([0.25, -1.5])
    found = waves(values, 3, 4)
    for k, frequency in enumerate((1, 4, 16)):
        torch.testing.assert_close(found[:, k], (values * frequency).sin())
        torch.testing.assert_close(found[:, 3 + k], (values * frequency).cos())
    torch.testing.assert_close(found[:, 6], values)


def test_the_transformer_is_as_large_as_published() -> None:
    """378 million parameters for a perceptron of 784, 10, 10 and 10 units in chunks of 1,000 values: 11 tokens."""
    shapes = {"0.weight": (10, 784), "0.bias": (10,), "1.weight": (10, 10), "1.bias": (10,)}
    structure = structure_of(shapes)
    assert token_sizes(structure, 1000) == [1000] * 7 + [840, 10, 100, 10]
    assert structure.numel == 7_960
    settings = TransformerConfig(steps=1, batch_size=1, learning_rate=1.0, chunk=1000, width=1536)
    with torch.device("meta"):
        model = Denoiser(token_sizes(structure, 1000), 1000, settings)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 378


def structure_of(shapes: dict[str, tuple[int, ...]]) -> Structure:
    specs = [TensorSpec(name=name, shape=shape, dtype="float32", kind="float") for name, shape in shapes.items()]
    return Structure(tensors=tuple(specs))


def test_an_untrained_transformer_leaves_a_network_as_it_is() -> None:
    """And each place has its own maps: moving the values of one token changes nothing that another one reads."""
    model = Denoiser([3, 2], 10, TransformerConfig.model_validate({**TRANSFORMER, "chunk": 4, "width": 8}))
    now, noisy = torch.randn(2, 5, 8, generator=generator(0, "x"))
    times, prompt = torch.randint(10, (5,)), torch.rand(5, 2)
    assert torch.equal(model(noisy, times, now, prompt), now)
    torch.nn.init.normal_(model.out[1].weight)
    changed = model(noisy, times, now, prompt) - now
    assert not changed[:, :4].any()
    assert changed[:, 4:6].all()
    assert not changed[:, 6:].any()


def test_pairs_are_an_earlier_and_a_later_checkpoint_of_one_training(tmp_path) -> None:
    uneven = TrainingSet.of(trainings_zoo(tmp_path / "zoo", range(3)), "train", along=True)
    entries = [e for e in uneven.entries if not (e.seed == 1 and e.step < 3) and not (e.seed == 2 and e.step < 4)]
    known = trainings(entries, "loss")
    early, late = known.pairs(2000, generator(0, "pairs"))
    found = {
        (entries[a].seed, entries[a].step, entries[b].seed, entries[b].step) for a, b in zip(early, late, strict=True)
    }
    steps = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    assert found == {(0, a, 0, b) for a, b in steps} | {(1, 3, 1, 4)}  # of the last there is one checkpoint alone
    assert known.first == 2.0


def test_both_networks_of_a_pair_get_the_same_new_order() -> None:
    """And compute what they computed."""
    networks = digits_networks(2)
    origin = Origin(name="digits", kind="collected", task=TASK, command=("x",), versions={})
    structure = Structure.of(networks[0])
    permutations, layout = permutations_of(origin, structure, "none"), Layout.fit(structure, lambda: networks, 64)
    pair, mask = torch.stack([layout.encode(network).view(1, -1) for network in networks]), layout.mask().view(-1)
    moved, shifted = (reordered(given, mask, permutations, generator(0, "order")) for given in (pair, pair + 1))
    assert not torch.equal(moved, pair)
    torch.testing.assert_close((shifted - moved)[..., mask], torch.ones_like(moved[..., mask]))
    assert not moved[..., ~mask].any()
    task = task_of(origin).build(None, CPU)
    images = task.held_out()[0]
    model = task.build(0).eval()
    for before, after in zip(networks, moved[:, 0], strict=True):
        answers = []
        for weights in (before, layout.decode(after.view(-1, 64), before)):
            task.load(model, weights)
            with torch.no_grad():
                answers.append(model(images))
        torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-3)


# Where networks begin


def trainings_of_digits(path: Path, shared: bool = False) -> Zoo:
    """Of six seeds the untrained network, or the same one of all, and one with twice its weights."""
    config = task_of(Origin(name="digits", kind="collected", task=TASK, command=("x",), versions={}))
    origin = Origin(name="digits", kind="collected", task=TASK, command=("x",), versions={})
    networks = [config.network(0 if shared else seed, pretrained=False).state_dict() for seed in range(6)]
    with ZooWriter(path, origin, Structure.of(networks[0])) as writer:
        for seed, weights in enumerate(networks):
            for step, loss in ((0, 2.3 + seed / 100), (9, 0.5)):
                metrics = [Metric("loss", loss, 10, 0.0, higher_is_better=False)]
                grown = {n: (1 + (step > 0)) * w if w.is_floating_point() else w for n, w in weights.items()}
                split = "train" if step else "early"
                writer.add(f"net-{seed}-{step}", grown, seed=seed, step=step, split=split, metrics=metrics)
        return writer.finish()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Run:
    place = tmp_path_factory.mktemp("digits")
    return train(config(TWO_STEPS, permutations=True), trainings_of_digits(place / "zoo"), place / "run")


def test_new_networks_are_those_of_the_task_before_training(digits) -> None:
    """Their metric is what it was on average; their seeds follow from the recorded one."""
    starts = Starts(digits, GPTDraw(seed=3), None, CPU)
    for k in range(2):
        start = starts[k]
        expected = starts.task.network(derive_seed(3, "g.pt", "start", k), pretrained=False).state_dict()
        assert all(torch.equal(start.weights[name], value) for name, value in expected.items())
        assert start.metric == pytest.approx(2.325)
        assert start.parents == ()


def test_where_all_trainings_began_with_one_network_others_are_no_start(tmp_path) -> None:
    zoo = trainings_of_digits(tmp_path / "zoo", shared=True)
    run = train(config(TWO_STEPS), zoo, tmp_path / "run")
    with pytest.raises(ValueError, match=r"began with one network, net-0-0; start from it, .*generate\.chosen=net-0-0"):
        made(run, tmp_path / "made", n=1, conditions=["loss=0.5"])
    found = made(run, tmp_path / "made", n=1, conditions=["loss=0.5"], start=str(zoo.path), chosen="net-0-0")
    assert found.entries[0].parents == (zoo.entry("net-0-0").sha256,)


def test_a_start_that_was_said_in_training_is_where_networks_begin(tmp_path) -> None:
    zoo = trainings_of_digits(tmp_path / "zoo")
    asked = GPTDraw(conditions=("loss=0.5",), start=str(zoo.path), chosen="net-3-9", n=1)
    run = train(config(TWO_STEPS), zoo, tmp_path / "run", request=asked)
    plan = plan_generation(run, {}, out=tmp_path / "made")
    assert "start" not in str(plan.origin.settings["generate"])
    assert plan.carry_out().entries[0].parents == (zoo.entry("net-3-9").sha256,)


def test_rounds_go_on_from_what_was_made_and_its_measured_loss(digits, tmp_path, monkeypatch) -> None:
    """A second round is a first one from the zoo that the first round made, but for its noise."""
    measured = []
    real = rpg.methods.g_pt.starts.Measure.__call__

    def measure(self, weights):
        measured.append(real(self, weights))
        return measured[-1]

    monkeypatch.setattr(rpg.methods.g_pt.starts.Measure, "__call__", measure)
    once = made(digits, tmp_path / "once", n=2, conditions=["loss=0.0"])
    assert not measured
    made(digits, tmp_path / "twice", n=2, conditions=["loss=0.0"], rounds=2)
    task = digits_task()
    model = task.build(0)
    expected = []
    for entry in once.entries:
        task.load(model, once.load(entry))
        expected.append({m.name: m.value for m in task.evaluate(model, "validation").metrics}["loss"])
    assert measured == pytest.approx(expected)
    assert not once.entries[0].metrics
    made(digits, tmp_path / "on", n=2, conditions=["loss=0.0"], start=str(once.path))  # it has no record: measured
    assert measured[2:] == pytest.approx(expected)


# Before any work, and bytes


def test_an_interrupted_training_goes_on_to_the_same_bytes(zoo, tmp_path, monkeypatch) -> None:
    whole = train(BRIEF, zoo, tmp_path / "whole")

    def stopping(seed: int, *path: str | int, **others: Any) -> torch.Generator:
        if path == ("transformer", 15):
            raise KeyboardInterrupt
        return generator(seed, *path, **others)

    monkeypatch.setattr(rpg.methods.g_pt.method, "generator", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(BRIEF, zoo, tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / "transformer.state.safetensors").is_file()
    assert content(train(BRIEF, zoo, tmp_path / "run").path) == content(whole.path)


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"losses": (1.0,)}, {}, r"of each of these 3 there is one alone; .*zoo\.save\.along=10"),
        ({"losses": (1.0, 1.0)}, {}, "loss is 1 of all 6 checkpoints"),
        ({"step": 5}, {}, "have the same step 5"),
        ({"condition": "01"}, {}, "is of binary task 01, and g.pt is told a metric"),
        ({}, {"metric": "top1"}, r"has no top1 on record; .* one it has: loss"),
        ({}, {"permutations": True}, r"nobody knows which units .*--set method\.permutations=false"),
        ({}, {"transformer.layers": 1, "transformer.batch_size": 10**9}, r"set a smaller method\.transformer\.width"),
    ],
)
def test_what_cannot_be_learnt_is_refused_before_any_work(tmp_path, changes, settings, words) -> None:
    zoo = trainings_zoo(tmp_path / "zoo", range(3), **changes)
    overrides = [f"method.{key}={value}" for key, value in {"permutations": False, **settings}.items()]
    with pytest.raises(ValueError, match=words) as caught:
        rpg.api.train(zoo, "g.pt-small", out=tmp_path / "run", overrides=overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("top1=90", "the run was told loss; expected the loss that networks are to have, in training 0.4 to 2"),
        ("0100010111", "it is not the value of a metric; expected the loss"),
        ("cat,dog | truck", "it is not the value of a metric"),
        ("loss=", "it is not the value of a metric"),
        ("loss=low", "'low' is not a number"),
        ("loss=nan", "it is not finite"),
        ("loss=-0.1", "no loss is below 0"),
    ],
)
def test_conditions_of_another_kind_are_refused(run, new, tmp_path, condition, words) -> None:
    with pytest.raises(ValueError, match=words):
        wanted_conditions(run, [condition], None, flip=False)
    with pytest.raises(ValueError, match=words):
        made(run, tmp_path / "made", conditions=[condition], start=str(new.path))
    assert not (tmp_path / "made").exists()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_may_be_asked_for(value: float) -> None:
    target = MetricTarget(metric="score", low=0.4, high=2.0)
    words = target.read(f" score = {value!r} ")
    assert target.value(words) == value
    assert target.read(words) == words
    asked = GPTDraw(conditions=(words,)).asked()[0]
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", asked.id)


def test_requests_that_cannot_be_served_are_refused_before_any_work(run, new, digits, tmp_path) -> None:
    def refused(words: str, of: Run = run, error: type[Exception] = ValueError, **request: Any) -> None:
        with pytest.raises(error, match=words):
            made(of, tmp_path / "made", **{"conditions": ["loss=0.5"], **request})
        assert not (tmp_path / "made").exists()

    refused("expected it as it goes on record, 'loss=0.5'", conditions=["loss = .5"], start=str(new.path))
    refused(r"say which, in training 0.4 to 2: --condition loss=0.4", conditions=[])
    refused("networks of lines are not made from a seed alone; .* --set generate.start=zoos/mine")
    refused("no zoo at", error=MissingData, start=str(tmp_path / "none"))
    refused("has no checkpoint 'never'", start=str(new.path), chosen="never")
    refused("chosen = early is a split or an id of a zoo", chosen="early")
    refused("holds other networks than those", of=digits, start=str(new.path))
    with pytest.raises(ValueError, match="--flip are of binary tasks, and this run was told loss"):
        wanted_conditions(run, ["loss=1"], None, flip=True)
    with pytest.raises(ValueError, match="--split and --flip are of binary tasks"):
        wanted_conditions(run, [], "all", flip=False)


def test_the_estimate_counts_what_is_trained(zoo) -> None:
    settings, request = load_method("g.pt-small", ["method.transformer.layers=1"])
    found = settings.build().estimate(zoo.structure, 50, request, DEVICES["h200"])
    with torch.device("meta"):
        model = Denoiser(token_sizes(zoo.structure, 576), 1000, settings.transformer)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.fit_bytes > 20 * found.parameters  # weights, average, gradients and moments
    twice = settings.build().estimate(zoo.structure, 50, request.model_copy(update={"rounds": 2}), DEVICES["h200"])
    assert twice.draw_flops == 2 * found.draw_flops
