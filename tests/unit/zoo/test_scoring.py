"""Scores of a zoo: weights swapped in place, kept by content and protocol."""

import pytest
import torch

from zoo.manifest import Origin
from zoo.scoring import read_scores, score, score_file, scores_among
from zoo.structure import Structure
from zoo.tasks.classification import Config
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
