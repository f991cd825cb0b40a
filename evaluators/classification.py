"""Image classification: top-1, top-5 and cross entropy of one network, and which samples it gets right.

Shape suffixes: N samples, B samples of one batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evaluators.metrics import Evaluation, Metric, proportion

EVALUATOR = "classification/1"
"""Name and version; the version is raised whenever the same network would get other scores."""


# Not inference_mode: `batches` may fill a cache that training uses later, which inference tensors forbid.
@torch.no_grad()
def evaluate(predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Score a network on labelled batches: the metrics `top1`, `top5` (with more than 5 classes) and `loss`.

    `correct` of the evaluation says whether the top-1 answer is right.

    `predict` maps inputs (B, ...) to logits (B, C); it chooses device, precision and evaluation mode. `batches`
    yields inputs and int64 labels (B,) on any device.

    - Among equal logits the lower class index ranks first, on every device: a constant network scores chance.
    - A sample with a NaN among its logits is wrong at every k.
    - `loss` is the mean cross entropy in nats, computed in float32. It is left out if that of any sample is not
      finite (a network that diverged), because metrics are finite.

    Raises ValueError if there are no samples, if the logits are not (B, C) or if a label is not a class.
    """
    ranks, losses, classes = [], [], 0
    for inputs, labels in batches:
        logits_BC = predict(inputs)
        _check(logits_BC, labels)
        classes = logits_BC.shape[1]
        labels_B = labels.to(logits_BC.device)
        ranks.append(label_ranks(logits_BC, labels_B))
        losses.append(F.cross_entropy(logits_BC.float(), labels_B, reduction="none"))
    if not ranks:
        raise ValueError("no batches to evaluate on; expected at least one batch of inputs and labels")
    rank_N = torch.cat(ranks).cpu().numpy()
    loss_N = torch.cat(losses).cpu().double().numpy()

    correct_N = rank_N < 1
    metrics = [proportion("top1", correct_N)]
    if classes > 5:
        metrics.append(proportion("top5", rank_N < 5))
    if np.isfinite(loss_N).all():
        n = len(loss_N)
        stderr = float(loss_N.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        metrics.append(Metric("loss", float(loss_N.mean()), n=n, stderr=stderr, higher_is_better=False))
    return Evaluation(tuple(metrics), correct_N)


def balanced_accuracy(correct: NDArray[np.bool_], labels: NDArray[np.int64]) -> Metric:
    """The mean over classes of the share of their samples that are right, in percent: `balanced`. Chance has the same
    value however unequal the classes are. correct and labels (N,); classes without samples do not count.

    Raises ValueError if the two differ in length or are empty.
    """
    if correct.shape != labels.shape or correct.ndim != 1 or not len(labels):
        raise ValueError(f"got {correct.shape} answers for {labels.shape} labels; expected one each, n >= 1")
    shares = [proportion("share", correct[labels == label]) for label in np.unique(labels)]
    mean = sum(share.value for share in shares) / len(shares)
    stderr = math.sqrt(sum(share.stderr**2 for share in shares)) / len(shares)
    return Metric("balanced", mean, n=len(labels), stderr=stderr)


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes rank before the label: logits (B, C), int64 labels (B,) -> int64 (B,).

    0 where top-1 is right. Equal logits rank by class index; a NaN among a sample's logits gives the rank C.
    """
    classes = logits.shape[1]
    label_B1 = labels[:, None]
    logit_B1 = logits.gather(1, label_B1)
    lower_index_BC = torch.arange(classes, device=logits.device) < label_B1
    before_BC = (logits > logit_B1) | ((logits == logit_B1) & lower_index_BC)
    return before_BC.sum(1).masked_fill(logits.isnan().any(1), classes)


def _check(logits: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; expected torch.int64 of shape (B,)"
        )
    if logits.ndim != 2 or len(logits) != len(labels):
        raise ValueError(
            f"predict returned shape {tuple(logits.shape)} for {len(labels)} samples; "
            f"expected logits of shape ({len(labels)}, classes)"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels span {int(labels.min())} to {int(labels.max())}, but the network has {logits.shape[1]} "
            "classes; expected labels from 0 to classes - 1"
        )
