"""Classification scores against timm, an explicit sort and torch's cross entropy."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.utils import accuracy
from torch import Tensor

from evaluators.classification import evaluate, label_ranks
from evaluators.metrics import Evaluation


def batched(logits: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits themselves are the inputs, so that the identity is the network."""
    yield from zip(logits.split(batch_size), labels.split(batch_size), strict=True)


def scores(logits: Tensor, labels: Tensor, batch_size: int = 1000) -> tuple[dict[str, float], Evaluation]:
    evaluation = evaluate(lambda x: x, batched(logits, labels, batch_size))
    return {metric.name: metric.value for metric in evaluation.metrics}, evaluation


def random_case(n: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=rng)
    return torch.randn(n, classes, generator=rng) + F.one_hot(labels, classes), labels


@given(n=st.integers(1, 60), classes=st.integers(2, 20), batch_size=st.integers(1, 61), seed=st.integers(0, 999))
def test_scores_agree_with_timm_and_torch_for_every_batch_size(
    n: int, classes: int, batch_size: int, seed: int
) -> None:
    logits, labels = random_case(n, classes, seed)
    values, evaluation = scores(logits, labels, batch_size)
    top1, top5 = accuracy(logits, labels, topk=(1, 5))
    assert values["top1"] == pytest.approx(top1.item(), rel=1e-5)
    assert ("top5" in values) == (classes > 5)
    if classes > 5:
        assert values["top5"] == pytest.approx(top5.item(), rel=1e-5)
    assert values["loss"] == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-5)
    np.testing.assert_array_equal(evaluation.correct, (logits.argmax(1) == labels).numpy())


# Few distinct values, so that most rows have ties.
@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 1.0, -math.inf, math.inf]), min_size=7, max_size=7), min_size=1),
    label=st.integers(0, 6),
)
def test_ties_rank_by_class_index(rows: list[list[float]], label: int) -> None:
    ranks = label_ranks(torch.tensor(rows), torch.full((len(rows),), label))
    order = [sorted(range(7), key=lambda c, row=row: (-row[c], c)) for row in rows]
    assert ranks.tolist() == [classes.index(label) for classes in order]


def test_a_constant_network_scores_chance() -> None:
    values, evaluation = scores(torch.zeros(100, 10), torch.arange(100) % 10)
    assert values == pytest.approx({"top1": 10.0, "top5": 50.0, "loss": math.log(10)})
    assert evaluation.metrics[-1].stderr == pytest.approx(0, abs=1e-6)


def test_nan_logits_are_wrong_at_every_k_and_have_no_loss() -> None:
    logits = F.one_hot(torch.arange(8), 8).float()
    logits[2] = math.nan
    logits[3, 7] = math.nan
    values, evaluation = scores(logits, torch.arange(8))
    assert values == {"top1": 75.0, "top5": 75.0}
    assert evaluation.correct.tolist() == [True, True, False, False, True, True, True, True]


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_logits_are_ranked_but_have_no_loss(value: float) -> None:
    logits = torch.zeros(4, 3)
    logits[0, 1] = value
    values, _ = scores(logits, torch.ones(4, dtype=torch.int64))
    assert values == {"top1": 25.0 if value > 0 else 0.0}


def test_loss_has_the_standard_error_of_a_mean_and_lower_is_better() -> None:
    logits, labels = random_case(n=50, classes=4, seed=0)
    loss = scores(logits, labels, batch_size=7)[1].metrics[-1]
    each = F.cross_entropy(logits, labels, reduction="none").numpy()
    assert (loss.name, loss.n, loss.higher_is_better) == ("loss", 50, False)
    assert loss.stderr == pytest.approx(each.std(ddof=1) / math.sqrt(50), rel=1e-5)


def test_half_precision_logits_get_a_float32_loss() -> None:
    logits, labels = random_case(n=40, classes=6, seed=1)
    low = logits.bfloat16()
    assert scores(low, labels)[0] == pytest.approx(scores(low.float(), labels)[0], rel=1e-6)


def test_no_graph_is_built() -> None:
    network = torch.nn.Linear(4, 3)
    seen = []

    def predict(inputs: Tensor) -> Tensor:
        seen.append(network(inputs))
        return seen[-1]

    evaluate(predict, [(torch.ones(2, 4), torch.tensor([0, 2]))])
    assert not seen[0].requires_grad
    assert not seen[0].is_inference()


def test_one_sample_has_no_standard_error() -> None:
    evaluation = scores(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))[1]
    assert [(metric.n, metric.stderr) for metric in evaluation.metrics] == [(1, 0.0), (1, 0.0)]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3, 4), torch.tensor([0, 4, 1]), "labels span 0 to 4, but the network has 4 classes"),
        (torch.zeros(3, 4), torch.tensor([0, -1, 1]), "labels span -1 to 1"),
        (torch.zeros(3), torch.tensor([0, 1, 1]), r"returned shape \(3,\) for 3 samples"),
        (torch.zeros(2, 4), torch.tensor([0, 1, 1]), r"returned shape \(2, 4\) for 3 samples"),
        (torch.zeros(3, 4), torch.zeros(3), r"labels are torch.float32 of shape \(3,\)"),
        (torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.int64), r"labels are torch.int64 of shape \(3, 4\)"),
    ],
)
def test_bad_shapes_and_labels(logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(lambda _: logits, [(torch.zeros(len(labels)), labels)])


def test_nothing_to_evaluate_on() -> None:
    with pytest.raises(ValueError, match="no batches"):
        evaluate(lambda x: x, [])
    with pytest.raises(ValueError, match="n >= 1"):
        evaluate(lambda x: x, [(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))])
