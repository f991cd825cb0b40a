"""What `rpg report --json` prints of a comparison."""

from __future__ import annotations

from typing import Any

from evaluators.metrics import summarize
from rpg.reports.compare import Comparison


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """What `rpg report --json` prints: for every group its metrics as `rpg eval --json` does, and its similarity."""
    groups, scoring = {}, comparison.scoring
    for group in comparison.groups:
        similarity: dict[str, Any] = {
            "nearest_distance": summarize(group.nearest, higher_is_better=False).to_json(),
            "nearest_ratio": summarize(group.nearest_ratio, higher_is_better=False).to_json(),
            "spread": group.spread,
        }
        if aligned := group.aligned:
            similarity["aligned"] = {
                "nearest_ratio": summarize(aligned.nearest_ratio, higher_is_better=False).to_json(),
                "spread": aligned.spread,
                "novel_and_good": aligned.novel_and_good,
            }
            if aligned.distribution:
                similarity["aligned"]["distribution"] = aligned.distribution.model_dump(mode="json")
        if group.distribution:
            similarity["distribution"] = group.distribution.model_dump(mode="json")
        shown: dict[str, Any] = {"kind": group.kind, "about": group.about}
        shown |= {"seeds": len(group.seeds), "similarity": similarity}
        if behaviour := group.behaviour:
            shown["metrics"] = {name: summary.to_json() for name, summary in behaviour.metrics.items()}
            similarity["max_error_iou"] = summarize(behaviour.max_error_iou).to_json()
            shown["ensemble"] = behaviour.ensemble
            similarity["novel_and_good"] = behaviour.novel_and_good
            similarity["disagreement"] = behaviour.disagreement
            shown["working"] = scoring.working(group) if scoring else None
        groups[group.name] = shown
    about = {"protocol": scoring.protocol if scoring else None, "chance": scoring.chance if scoring else None}
    return {"task": comparison.originals, **about, "runs": comparison.runs, "groups": groups}
