"""The whole way in one call: collect, train, generate, compare, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from rpg.compare import Comparison, compare, groups_json
from rpg.config import EvalConfig, GenerateConfig, RPGConfig
from rpg.generate import generate
from rpg.report import provenance_of, write_report
from rpg.run import read_losses
from rpg.train import check, train
from zoo.collect import CollectConfig
from zoo.ensemble import collect
from zoo.recipe import Recipe
from zoo.tasks.base import Task

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def demo(
    recipe: Recipe,
    task: Task,
    out: Path,
    command: tuple[str, ...],
    device: torch.device,
) -> tuple[Comparison, dict[str, Any]]:
    """Run all stages into `out`; an interrupted call is continued by the same call.

    Returns the comparison and what `rpg demo --json` prints.
    """
    seconds: dict[str, float] = {}

    def stage(name: str, work: Callable[[], Result]) -> Result:
        log.info(f"[{len(seconds) + 1}/4] {name}")
        start = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - start, 1)
        return result

    zoo_config, rpg_config = recipe.section("zoo", CollectConfig), recipe.section("rpg", RPGConfig)
    generate_config, eval_config = (
        recipe.section("generate", GenerateConfig),
        recipe.section("eval", EvalConfig),
    )

    check(rpg_config.train, device)
    originals = stage("collect", lambda: collect(zoo_config, task, recipe.origin("collected", command), out / "zoo"))
    origin = recipe.origin("trained", command, (originals.sha256,))
    run = stage("train", lambda: train(rpg_config, originals, originals.select("train"), origin, out / "run", device))
    origin = recipe.origin("generated", command, (run.sha256,), generate_config)
    generated = stage("generate", lambda: generate(run, generate_config, origin, out / "generated", device))
    origin = recipe.origin("perturbed", command)
    comparison = stage("compare", lambda: compare(originals, generated, task, eval_config, origin, out / "report"))
    report = write_report(comparison, read_losses(run), provenance_of(recipe, command), out / "report")
    return comparison, groups_json(comparison, eval_config) | {"report": str(report), "seconds": seconds}
