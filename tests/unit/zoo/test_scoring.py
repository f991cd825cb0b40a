"""Scores of a zoo: weights swapped in place, kept by content and protocol."""

import pytest
import torch

from zoo import api
from zoo.manifest import Origin, settings_of
from zoo.scoring import read_scores, score, score_file, scores_among
from zoo.structure import Structure
from zoo.tasks import binary, commonsense
from zoo.tasks.classification import Config
from zoo.tasks.wrapped import with_changes
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})


@pytest.fixture(scope="module")
def task():
    return Config(name="classification", model="cnn_digits", data="digits").build(None, torch.device("cpu"))


@pytest.fixture
def zoo(tmp_path, task):
    """Networks that differ in their BatchNorm statistics, too."""
    with ZooWriter(tmp_path / "zoo", ORIGIN, Structure.of(task.weights(task.build(0)))) as writer:
        for seed in range(3):
            model = task.build(seed).train()
            for _, batch in zip(range(5 * (seed + 1)), task.batches(seed, 0, 100), strict=False):
                model(batch[0])
            writer.add(f"net-{seed}", task.weights(model), seed=seed, split="train")
        return writer.finish()


def test_swapped_weights_score_as_networks_of_their_own(tmp_path, task, zoo):
    together = score(zoo, task, tmp_path / "scores")
    assert len({one.metrics["loss"].value for one in together}) == 3
    for entry, found in zip(zoo.entries, together, strict=True):
        model = task.build(7)
        task.load(model, zoo.load(entry))
        alone = task.evaluate(model, "test")
        assert found.metrics == {metric.name: metric for metric in alone.metrics}
        assert (found.correct_per_sample() == alone.correct).all()


def test_each_precision_has_its_own_protocol_and_scores(tmp_path, task, zoo):
    full = score(zoo, task, tmp_path / "scores")
    low = score(zoo, task, tmp_path / "scores", precision="bfloat16")
    assert {one.protocol for one in full} == {task.protocol}
    assert {one.protocol for one in low} == {f"{task.protocol}, bfloat16"}
    for a, b in zip(full, low, strict=True):
        assert a.metrics["loss"].value != b.metrics["loss"].value
        assert a.metrics["loss"].value == pytest.approx(b.metrics["loss"].value, rel=0.02)
    lines = (tmp_path / "scores" / "scores.jsonl").read_bytes()
    assert (score(zoo, task, tmp_path / "scores"), lines.count(b"\n")) == (full, 6)
    assert (tmp_path / "scores" / "scores.jsonl").read_bytes() == lines
    with pytest.raises(ValueError, match=r"'float16'; did you mean bfloat16"):
        score(zoo, task, tmp_path / "scores", precision="float16")
    with pytest.raises(ValueError, match="no precision named"):
        score_file(tmp_path / "x.safetensors", task, "half")


def test_of_many_scores_those_of_the_zoo_under_one_protocol_are_taken(tmp_path, task, zoo):
    """The one that most of its networks have one of; of several that in full precision."""
    place, others = tmp_path / "scores", [zoo.entries[1]]
    full = score(zoo, task, place)
    score(zoo, task, place, zoo.entries[:2], precision="bfloat16")
    assert scores_among(read_scores(place), zoo.entries) == full
    low = score(zoo, task, place, precision="bfloat16")
    assert scores_among(read_scores(place), zoo.entries) == full
    assert scores_among(read_scores(place), zoo.entries, (task.evaluator, low[0].protocol)) == low
    assert scores_among(read_scores(place), others) == [full[1]]
    assert scores_among(read_scores(place), zoo.entries, ("another/1", task.protocol)) == []
    assert scores_among(read_scores(tmp_path / "nothing"), zoo.entries) == []


VIT = Config(
    name="classification",
    model="test_vit.r160_in1k",
    data="digits",
    options={"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2},
)


def test_settings_with_which_networks_compute_something_else_have_scores_of_their_own(tmp_path):
    """How many heads attention has, no tensor tells: such scores had been taken for those of the zoo's own task."""
    task, place = VIT.build(None, torch.device("cpu")), tmp_path / "scores"
    origin = ORIGIN.model_copy(update={"task": settings_of(VIT)})
    with ZooWriter(tmp_path / "zoo", origin, Structure.of(task.weights(task.build(0)))) as writer:
        writer.add("net-0", task.weights(task.build(0)), seed=0, split="train")
        made = writer.finish()
    plain = api.score(made, out=place, device="cpu")
    other = api.score(made, out=place, device="cpu", overrides=["task.options.num_heads=1"])
    assert plain[0].protocol == task.protocol
    assert other[0].protocol == f"{task.protocol}, with task.options.num_heads=1"
    assert plain[0].metrics["loss"].value != other[0].metrics["loss"].value
    assert api.score(made, out=place, device="cpu", overrides=["task.augment=flip", "task.options.depth=1"]) == plain
    assert scores_among(read_scores(place), made.entries) == plain
    assert read_scores(place) == [*plain, *other]


def protocol(made, **changed):
    """What scores say with these settings of networks that were made with others."""
    used = made.model_copy(update=changed)
    return with_changes(used.build(None, torch.device("cpu")), made, used).protocol


def test_only_what_neither_data_nor_tensors_tell_is_said():
    assert protocol(VIT, image_size=12) == VIT.model_copy(update={"image_size": 12}).build(None, "cpu").protocol
    adapter = commonsense.Config(
        name="commonsense", model="made:tiny-llama", rank=4, alpha=8, dtype="float32", data="made_questions"
    )
    plain = protocol(adapter, cutoff=10, validation=5, dropout=0.5)
    assert ", with" not in plain
    assert protocol(adapter, alpha=64, model="base") == f'{plain}, with task.alpha=64, task.model="base"'
    assert protocol(adapter, limit=1) == adapter.model_copy(update={"limit": 1}).build(None, "cpu").protocol


def test_each_of_many_tasks_says_it():
    made = binary.Config(name="binary", model="cnn_digits", data="digits")
    used = made.model_copy(update={"options": {"width": 2}})
    task = with_changes(used.build(None, torch.device("cpu")), made, used)
    assert task.for_condition("0000011111").protocol == task.protocol
    assert task.protocol.endswith(", two classes, with task.options.width=2")
    assert len(task.classes("test")) == len(task.for_labels(torch.ones(10)).classes("test"))
