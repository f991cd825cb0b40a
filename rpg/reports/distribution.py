"""How a group lies beside originals that no generator saw: the measures of evaluators.two_sample, from a report's
distances.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.similarity import rms_spread
from evaluators.two_sample import classifier_auc, codes, energy_distance, mean_shift
from rpg.reports.distances import Distances
from zoo.manifest import Entry
from zoo.structure import Frozen


class Distribution(Frozen):
    """A group beside `heldout` originals that nobody trained on. `auc` is how well a classifier tells the two apart, 1
    without fail; where nothing does it is 0.5 with a deviation of `auc_chance_std`. None where a group is too small for
    that. `energy` (the energy distance) and `shift` (how far the means are apart) are in units of the radius of those
    held out, the root mean square distance from their mean.
    """

    heldout: int
    auc: float | None
    auc_chance_std: float | None
    energy: float
    shift: float


def beside_heldout(
    own: Distances, original: Distances, heldout: Distances, rows: Sequence[int], heldout_rows: Sequence[int]
) -> Distribution | None:
    """A group beside those held out, by their distances. `rows` are the networks of either that count: one of each run,
    since two of one run say the same twice. None where a mean over pairs has no pair, or those held out are all equal.

    The classifier sees principal components of the originals that generators saw, and the distance from their mean.
    """
    if min(len(rows), len(heldout_rows)) < 2 or own.to_heldout is None:
        return None
    of_heldout = heldout.within[heldout_rows][:, heldout_rows]
    radius = rms_spread(of_heldout)
    if not radius:
        return None
    between, within = own.to_heldout[rows][:, heldout_rows], own.within[rows][:, rows]
    seen, unseen = (codes(one.to_first[of], original.within) for one, of in ((own, rows), (heldout, heldout_rows)))
    auc = classifier_auc(seen, unseen)
    return Distribution(
        heldout=len(heldout_rows),
        auc=auc.value if auc else None,
        auc_chance_std=auc.chance_std if auc else None,
        energy=energy_distance(between, within, of_heldout) / radius,
        shift=mean_shift(between, within, of_heldout) / radius,
    )


def last_of_runs(entries: Sequence[Entry]) -> list[int]:
    """Which of these checkpoints are the last of their run (seed), in their order."""
    last: dict[int | None, int] = {}
    for k, entry in enumerate(entries):
        if entry.seed not in last or entry.step >= entries[last[entry.seed]].step:
            last[entry.seed] = k
    return sorted(last.values())
