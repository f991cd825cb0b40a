"""What networks do, as a term of the loss: those that are read out of prototypes, on training images.

Legend: B networks, L tokens of a network, D token size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rpg.methods.base import Machine, TrainingSet
from rpg.methods.rpg.config import RPGConfig
from rpg.methods.rpg.models.generator import Generator
from rpg.methods.task_data import Behaviour, task_with_data
from rpg.processes import world_size
from rpg.tokens.layout import Layout
from rpg.tokens.values import ValueStatistics
from zoo.seeds import generator as seeded_generator
from zoo.tasks.classification import ClassificationTask


def behaviour_task(config: RPGConfig, data: TrainingSet, machine: Machine) -> ClassificationTask | None:
    """The task whose images are learnt from; None where no behaviour is. Raises ValueError where it is none of images,
    or for several processes, MissingData without the images.
    """
    if not config.behaviour:
        return None
    remedy = "use --set method.behaviour=0"
    if world_size() > 1:
        raise ValueError(f"behaviour = {config.behaviour:g} is learnt in one process, not in {world_size()}; {remedy}")
    told = config.generator.condition != "none"
    return task_with_data(data.zoo.manifest.origin, machine.device, remedy, machine.data_root, told)


@dataclass(frozen=True, eq=False)
class ReadOutBehaviour:
    """The cross-entropy of `config.behaviour_networks` networks a step, on the same `behaviour_images` images, a
    function of (seed, step). `cond` (N, ...) is what the generator is told of each training checkpoint and `conditions`
    are their binary tasks, none where all have one task; `values` are the statistics of values, where there are some.
    """

    config: RPGConfig
    behaviour: Behaviour
    layout: Layout
    cond: Tensor
    conditions: tuple[str, ...] = ()
    values: ValueStatistics | None = None

    def after(self, backward: Callable[[int], Tensor], model: Generator) -> Callable[[int], Tensor]:
        """A step's backward pass, and then this term's: what it returns are both losses."""

        def both(step: int) -> Tensor:
            total = backward(step)
            loss = self.loss(model, step)
            loss.backward()
            return total + loss.detach()

        return both

    def loss(self, model: Generator, step: int) -> Tensor:
        """The mean over the networks, weighted: a scalar, differentiable in the recurrent model and the read-out."""
        assert model.readout is not None
        settings = self.config.train
        rng = seeded_generator(settings.seed, "behaviour", step)
        rows = torch.randint(len(self.cond), (self.config.behaviour_networks,), generator=rng)
        device = model.positions.device
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            tokens_BLD = model.readout(model.prototypes(self.cond[rows].to(device)))
        vectors = self._vectors(tokens_BLD.float())
        batch = self.behaviour.batch(settings.seed, step, self.config.behaviour_images)
        told = [self.conditions[row] for row in rows.tolist()] if self.conditions else []
        return self.config.behaviour * self.behaviour.cross_entropy(vectors, batch, told)

    def _vectors(self, tokens_BLD: Tensor) -> Tensor:
        """Standardised tokens as the values of networks, tensor after tensor without padding: (B, values)."""
        if self.values is not None:
            mean, std = (of.to(tokens_BLD.device) for of in (self.values.mean, self.values.std))
            tokens_BLD = tokens_BLD * std + mean
        return tokens_BLD.flatten(1)[:, self.layout.mask().flatten()]
