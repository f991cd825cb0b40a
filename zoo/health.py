"""Whether networks work at all: their scores beside what guessing scores (`TaskConfig.chance`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from zoo.manifest import Entry
from zoo.recipe import task_of
from zoo.store import Zoo

log = logging.getLogger(__name__)
TRAIN_LONGER = "train them longer (zoo.epochs), or at another zoo.learning_rate"

ENOUGH = 10**6  # samples, which leave no doubt


def works_from(chance: float, samples: int) -> float:
    """The score in percent that a network has to pass to be better than guessing, where that scores `chance` percent on
    average: two standard errors on so many samples above it, and a twentieth of the way to 100 (or half of chance,
    where that is less). The second is for networks that were never trained: each is a function that is right more often
    than chance or less, whatever the number of samples.
    """
    share = min(max(chance / 100, 0.0), 1.0)
    return chance + min((100 - chance) / 20, chance / 2) + 200 * math.sqrt(share * (1 - share) / samples)


@dataclass(frozen=True)
class Health:
    """One metric of networks, in percent, and what guessing scores; no `chance` where nobody knows it. `working` is how
    many of the `networks` are better than guessing, or cannot be any better on the few `samples` there are, and
    `seeming` how many would be if their scores were those on many.
    """

    metric: str
    mean: float
    low: float
    high: float
    networks: int
    working: int
    chance: float | None
    samples: int
    seeming: int

    @property
    def works(self) -> bool:
        """Whether at least half of the networks are better than guessing, as far as one can tell."""
        return self.chance is None or 2 * self.working >= self.networks

    def __str__(self) -> str:
        spread = f" ({self.low:.2f} to {self.high:.2f})" if self.networks > 1 else ""
        chance = "" if self.chance is None else f", chance {self.chance:.2f}"
        return f"{self.metric} {self.mean:.2f} on average{spread}{chance}"


def health(entries: Sequence[Entry], chance: Mapping[str, float]) -> Health | None:
    """How good networks were on validation data when they were made; None where that was not measured. Of their metrics
    the one whose chance is known, or else their first.
    """
    measured = [entry for entry in entries if entry.metrics]
    if not measured:
        return None
    names = [name for name in measured[0].metrics if all(name in entry.metrics for entry in measured)]
    names.sort(key=lambda name: name not in chance)  # stable: the order of the metrics otherwise
    if not names:
        return None
    metrics = [entry.metrics[names[0]] for entry in measured]
    values, guess = [metric.value for metric in metrics], chance.get(names[0])
    working = sum(
        guess is None or metric.value >= 100 or metric.value > works_from(guess, metric.n)  # the last may be above 100
        for metric in metrics
    )
    samples = min(metric.n for metric in metrics)
    seeming = sum(guess is None or value > works_from(guess, ENOUGH) for value in values)
    return Health(names[0], mean(values), min(values), max(values), len(values), working, guess, samples, seeming)


def validated(zoo: Zoo, split: str | None = None) -> Health | None:
    """The health of a zoo's networks, or of those of one split, on validation data, as far as its task is known here:
    weights can be looked at and learnt without it.
    """
    origin = zoo.manifest.origin
    try:
        chance = task_of(origin).chance() if origin.task else {}
    except ValueError:
        chance = {}
    return health(zoo.select(split) if split else zoo.trained, chance)


def report_health(zoo: Zoo, chance: Mapping[str, float], remedy: str = TRAIN_LONGER) -> None:
    """Log how good the networks of a new zoo are on validation data, and a warning, with the remedy, when they only
    guess.
    """
    if found := health(zoo.trained, chance):
        log.info(f"{zoo.path}: on validation data {found}")
        _warn(zoo, found, remedy)


def warn_of_guessers(zoo: Zoo, split: str) -> None:
    """Log a warning when the networks of this split of a zoo were no better than guessing when they were made."""
    if found := validated(zoo, split):
        _warn(zoo, found, TRAIN_LONGER)


def _warn(zoo: Zoo, found: Health, remedy: str) -> None:
    if found.works or found.chance is None:
        return
    if 2 * found.seeming >= found.networks:
        log.warning(
            f"whether the networks of {zoo.path} are better than guessing cannot be told on {found.samples} validation "
            f"samples ({found}); validate on more (task.validation)"
        )
    else:
        log.warning(
            f"the networks of {zoo.path} do not work: {found.working} of {found.networks} are better than guessing on "
            f"validation data ({found}), and what is learnt from them cannot be; {remedy}"
        )
