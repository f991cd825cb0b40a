"""Reports of the same originals as one: their groups side by side, under names that tell them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rpg.reports.ceiling import AND, BY
from rpg.reports.compare import ABOUT, Comparison, Group
from rpg.reports.labels import GENERATED

KINDS = tuple(ABOUT)

Named = tuple[str, Comparison]
"""A comparison, and the name of its report."""


def together(reports: Sequence[Named]) -> list[Comparison]:
    """One comparison for all reports of the same originals and protocol, in the order of the first of each. Networks
    that several reports show stand once; what is `generated` in its report is called as the report, and groups whose
    names are still the same have those of their reports behind them.
    """
    alike: dict[tuple[str | None, str | None], list[Named]] = {}
    for name, comparison in reports:
        scoring = comparison.scoring
        key = comparison.inputs.get("original"), scoring.protocol if scoring else None
        alike.setdefault(key, []).append((name, comparison))
    return [_merged(found) for found in alike.values()]


def without_baselines(comparison: Comparison) -> Comparison:
    """As a report that was made without baselines: without what codecs give back, too."""
    groups = tuple(group for group in comparison.groups if group.kind not in ("baseline", "reconstructed"))
    return comparison.model_copy(update={"groups": groups})


def _merged(reports: Sequence[Named]) -> Comparison:
    taken = {group.name for _, comparison in reports for group in comparison.groups}
    found: list[tuple[str, Group]] = []
    for report, comparison in reports:
        own = f"{GENERATED} ({report})" if report in taken else report
        for group in comparison.groups:
            if not any(_same(group, other) for _, other in found):
                found.append((report, group.model_copy(update={"name": _name(group, own)})))
    count = Counter(group.name for _, group in found)
    groups = [
        group if count[group.name] == 1 else group.model_copy(update={"name": f"{group.name} ({report})"})
        for report, group in found
    ]
    groups.sort(key=lambda group: KINDS.index(group.kind))
    return reports[0][1].model_copy(update={"groups": tuple(groups)})


def _name(group: Group, own: str) -> str:
    """What a group is called beside those of other reports; `own` is the name of what is `generated` in its report."""
    if group.kind == "generated" and group.name == GENERATED:
        return own
    if group.kind == "reconstructed":
        row, _, names = group.name.partition(BY)
        return row + BY + AND.join(own if name == GENERATED else name for name in (names or GENERATED).split(AND))
    return group.name


def _same(group: Group, other: Group) -> bool:
    """Whether two groups are the same networks: those of baselines, which every report makes anew, are called alike."""
    return (group.kind, group.ids, group.nearest) == (other.kind, other.ids, other.nearest)
