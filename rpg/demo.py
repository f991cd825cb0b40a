"""The whole way in one call: collect, train, generate, compare and report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rpg.api import plan_generation, plan_training
from rpg.reports.stage import Report, plan_report
from zoo.api import PYTHON, collection
from zoo.recipe import load_recipe
from zoo.training.engines import collect_zoos

log = logging.getLogger(__name__)
Result = TypeVar("Result")
RECIPE = "digits"


def demo(
    out: Path, overrides: Sequence[str] = (), device: str = "auto", command: tuple[str, ...] = PYTHON
) -> tuple[Report, dict[str, float]]:
    """Run all stages on handwritten digits into `out`; an interrupted call is continued by the same call. The report,
    and the seconds of each stage.
    """
    seconds: dict[str, float] = {}

    def stage(name: str, work: Callable[[], Result]) -> Result:
        log.info("[%d/4] %s", len(seconds) + 1, name)
        start = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - start, 1)
        return result

    recipe = load_recipe(RECIPE, overrides)
    plan = collection(recipe, command, out / "zoo")
    (zoo,) = stage("collect", lambda: collect_zoos([plan], "local", None, None, device))
    training = plan_training(RECIPE, zoo=zoo, out=out / "run", overrides=overrides, device=device, command=command)
    run = stage("train", training.carry_out)
    generation = plan_generation(run, {}, out=out / "generated", device=device, command=command)
    made = stage("generate", generation.carry_out)
    evaluation = [pair for pair in overrides if pair.startswith("eval.")]
    reporting = plan_report(
        [zoo, made],
        recipe=RECIPE,
        out=out / "report",
        overrides=evaluation,
        runs=[str(run.path)],
        device=device,
        command=command,
    )
    return stage("compare", reporting.carry_out), seconds
