"""New networks from the codes of the best: kernel densities, and the selections that SANE's paper reports beside them.

- Subsampling: of `candidates` networks the `kept` best by validation score are given, best first.
- Bootstrapping: with more than one round, each further one samples around the codes that were kept before.

Both are selections: the mean of such networks is not the mean of what the method makes. They, and measuring BatchNorm's
statistics anew, need the task's data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor
from typing_extensions import Self

from evaluators.metrics import Metric
from rpg.methods.batches import padded
from rpg.methods.density import KernelDrawConfig, draw_code, parents_of
from rpg.methods.sane.model import Autoencoder
from rpg.methods.task_data import condition_batchnorm, has_batchnorm, task_with_data
from rpg.methods.vectors import Drawn, Vectors
from zoo.progress import progress
from zoo.structure import Structure

PASS_IMAGES = 32


class GenerateConfig(KernelDrawConfig):
    """Section `generate:`. `scope` says what has a density of its own. With `candidates`, networks are the `kept` best
    of so many, after `rounds`. `batchnorm_passes` batches of 32 training images measure the running statistics of each
    new network that has any (0: they are generated, too).
    """

    bandwidth: Annotated[float, Field(ge=0)] = 0.2
    scope: Literal["joint", "token", "individual"] = "token"
    candidates: PositiveInt | None = None
    kept: PositiveInt = 10
    rounds: PositiveInt = 1
    batchnorm_passes: NonNegativeInt = 200

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.selects:
            if self.rounds > 1:
                raise ValueError("rounds sample around the best of the candidates before; set candidates, too")
        elif self.kept > self.candidates:  # type: ignore[operator]
            raise ValueError(f"kept = {self.kept} of candidates = {self.candidates}; expected fewer or as many")
        elif self.n > self.kept:
            raise ValueError(f"n = {self.n}, but only the {self.kept} best are kept; ask for fewer, or raise kept")
        return self

    @property
    def selects(self) -> bool:
        return self.candidates is not None

    def conditions(self, structure: Structure) -> bool:
        """Whether running statistics are measured of networks of this structure."""
        return has_batchnorm(structure) and self.batchnorm_passes > 0

    def looks(self, structure: Structure) -> bool:
        """Whether images are looked at."""
        return self.conditions(structure) or self.selects

    @property
    def remedy(self) -> str:
        """How none are."""
        return "use --set generate.batchnorm_passes=0" + (" and no generate.candidates" if self.selects else "")


@dataclass(frozen=True)
class Candidate:
    """A network: its code (T, Z), the anchors it comes from, and its validation score where it was asked for."""

    code: Tensor
    vector: Tensor
    anchors: Sequence[int]
    metrics: tuple[Metric, ...] = ()
    score: float = 0.0


class Sampler:
    """Makes the networks of one request from a run's autoencoder and anchors (A, T, Z). Raises ValueError for a
    selection of networks that do not classify images, MissingData without the data that are needed.
    """

    def __init__(
        self,
        vectors: Vectors,
        request: GenerateConfig,
        model: Autoencoder,
        anchors: Tensor,
        hashes: Sequence[str],
        device: torch.device,
    ) -> None:
        self.vectors, self.request, self.model, self.device = vectors, request, model, device
        self.anchors, self.hashes = anchors, hashes
        structure, self.task = vectors.layout.structure, None
        self.conditions = request.conditions(structure)
        if request.looks(structure):
            self.task = task_with_data(vectors.run.record().origin, device, request.remedy, vectors.data_root)
            self.network = self.task.build(0)
            self.frozen, self.constants = vectors.run.frozen(), vectors.run.constants()

    def make(self, numbers: Sequence[int]) -> Drawn:
        """The networks of these numbers."""
        found = [self.selected[k] if self.request.selects else self._candidate(self.anchors, k) for k in numbers]
        return Drawn(
            torch.stack([candidate.vector for candidate in found]),
            [parents_of(self.hashes, candidate.anchors) for candidate in found],
            [candidate.metrics for candidate in found],
        )

    @cached_property
    def selected(self) -> list[Candidate]:
        """The best of the last round, best first; of equal ones that with the lower number."""
        request, anchors, sources = self.request, self.anchors, [[row] for row in range(len(self.anchors))]
        kept: list[Candidate] = []
        count = request.candidates
        assert count is not None
        with progress(f"candidates for {self.vectors.run.path}", request.rounds * count) as bar:
            for number in range(request.rounds):
                kept = []
                for k in range(number * count, (number + 1) * count):
                    candidate = self._candidate(anchors, k)
                    origin = sorted({row for anchor in candidate.anchors for row in sources[anchor]})
                    kept.append(Candidate(**{**vars(candidate), "anchors": origin}))
                    kept = sorted(kept, key=lambda found: -found.score)[: request.kept]
                    bar.advance(1, f"best {kept[0].score:.2f}")
                anchors = torch.stack([candidate.code for candidate in kept])
                sources = [list(candidate.anchors) for candidate in kept]
        return kept

    @torch.no_grad()
    def _candidate(self, anchors: Tensor, k: int) -> Candidate:
        """One at a time, so that a network is the same whatever is asked for beside it."""
        code, chosen = draw_code(anchors, self.request, self.request.scope, k)
        vector = padded(self.model.vectors_of(code[None].to(self.device)), self.vectors)[0].cpu()
        if self.task is None:
            return Candidate(code, vector, chosen)
        weights = self.vectors.weights(vector, self.constants)
        self.task.load(self.network, {**weights, **self.frozen})
        if self.conditions:
            passes = self.request.batchnorm_passes
            condition_batchnorm(self.task, self.network, self.request.seed, passes, PASS_IMAGES)
            vector = self.vectors.of({**self.task.weights(self.network), **self.constants})
        if not self.request.selects:
            return Candidate(code, vector, chosen)
        metrics = self.task.evaluate(self.network, "validation").metrics
        (main,) = (metric for metric in metrics if metric.name == self.task.main_metric)
        return Candidate(code, vector, chosen, metrics, main.value if main.higher_is_better else -main.value)
