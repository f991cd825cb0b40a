"""Reports of the same originals as one: their groups side by side, under names that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

from rpg.reports.compare import Comparison, Group

Named = tuple[str, Comparison]
"""A comparison, and the name of its report."""


def together(reports: Sequence[Named]) -> list[Comparison]:
    """One comparison for all reports of the same originals and protocol, in the order of the first of each."""
    alike: dict[tuple[str | None, str | None], list[Named]] = {}
    for name, comparison in reports:
        scoring = comparison.scoring
        key = comparison.inputs.get("original"), scoring.protocol if scoring else None
        alike.setdefault(key, []).append((name, comparison))
    return [_merged(found) for found in alike.values()]


def _merged(reports: Sequence[Named]) -> Comparison:
    groups: dict[str, Group] = {}
    for report, comparison in reports:
        for group in comparison.groups:
            if any(_same(group, other) for other in groups.values()):
                continue
            name = report if group.name == "generated" else group.name
            name = f"{name} ({report})" if name in groups else name
            groups[name] = group.model_copy(update={"name": name})
    return reports[0][1].model_copy(update={"groups": tuple(groups.values())})


def _same(group: Group, other: Group) -> bool:
    """Whether two groups are the same networks: those of baselines, which every report makes anew, are called alike."""
    return (group.kind, group.ids, group.nearest) == (other.kind, other.ids, other.nearest)
