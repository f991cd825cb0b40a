"""Means of training networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveInt

from rpg.methods.base import About, DrawConfig, Machine, MethodConfig
from rpg.methods.closed_form import ClosedForm, load_gram
from zoo.derive.mixtures import Draft, Drafts, around_mean
from zoo.derive.perturb import soups
from zoo.errors import Failed
from zoo.manifest import Entry
from zoo.store import Zoo

if TYPE_CHECKING:
    from rpg.run import Run

AT_THE_MEAN = 1e-6  # of the zoo's radius: nearer there is only rounding, no direction


class Config(MethodConfig):
    """`of` networks are mixed (None: all), with equal weights or random positive ones that sum to 1 (Dirichlet(1)).
    With `rescale` the result is as far from the zoo's mean as a training network, by their median.
    """

    name: Literal["soup"]
    of: PositiveInt | None = None
    mix: Literal["uniform", "positive"] = "uniform"
    rescale: bool = False

    def build(self) -> Soup:
        return Soup(self)


class Soup(ClosedForm):
    """A mean lies nearer to the zoo's mean than the networks do; rescaling undoes this: mean + c * (soup - mean)."""

    about: ClassVar[About] = About(
        what="means of training networks, all or some, rescaled to their radius or not",
        source="model soups, Wortsman et al. 2022, https://arxiv.org/abs/2203.05482",
        suits="any task and architecture; networks that are aligned, or of one run",
        trained=False,
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def uses_gram(self) -> bool:
        return self.config.rescale

    def _is_mean(self, networks: int) -> bool:
        """Whether all soups are one: the mean of all."""
        return self.config.mix == "uniform" and self.config.of in (None, networks)

    def refuse(self, zoo: Zoo, entries: Sequence[Entry]) -> None:
        if self.config.of is not None and self.config.of > len(entries):
            raise ValueError(
                f"method.of = {self.config.of}, but {zoo.path} has {len(entries)} networks to learn from; "
                f"use --set method.of={len(entries)} or fewer"
            )
        if self.config.rescale and self._is_mean(len(entries)):
            raise ValueError("the mean of all networks has no radius to rescale; set method.of, or method.mix=positive")

    def requested(self, run: Run, request: DrawConfig, machine: Machine) -> int:
        networks = len(run.networks()[1])
        if self._is_mean(networks) and request.n > 1:
            raise ValueError(
                f"asked for {request.n} networks, but the mean of all {networks} is one; ask for one (-n 1), or train "
                f"with method.of below {networks}, or with --set method.mix=positive"
            )
        return request.n

    def drafts(self, zoo: Zoo, entries: Sequence[Entry], run: Run, request: DrawConfig) -> Drafts:
        mixed = soups(zoo, entries, request.seed, self.config.of, self.config.mix)
        return self._rescaled(mixed, run, len(entries)) if self.config.rescale else mixed

    def _rescaled(self, mixed: Drafts, run: Run, networks: int) -> Drafts:
        gram = load_gram(run, networks)
        radius = float(gram.diagonal().clamp_min(0).sqrt().quantile(0.5))
        everything = tuple(range(networks))

        def draft(k: int) -> Draft:
            soup = mixed(k)
            weights = torch.zeros(networks, dtype=torch.float64)
            weights[list(soup.rows)] = soup.coefficients
            own = max(float(weights @ gram @ weights), 0.0) ** 0.5 if radius else 0.0  # rounded, it may be below 0
            if own <= AT_THE_MEAN * radius:
                raise Failed(f"soup {k} lies at the mean of all networks, where no direction is left to rescale along")
            return replace(soup, rows=everything, coefficients=around_mean(weights * (radius / own)))

        return draft
