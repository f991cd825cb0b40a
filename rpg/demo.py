"""The whole way in one call: collect, train, generate, compare, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from rpg.compare import Candidate, Comparison, compare, comparison_json
from rpg.config import EvalConfig, GenerateConfig, RPGConfig
from rpg.generate import generate
from rpg.page import provenance_of
from rpg.report import write_report
from rpg.run import read_losses
from rpg.train import check, train
from zoo.collect import CollectConfig
from zoo.ensemble import collect
from zoo.manifest import Origin
from zoo.ops import PerturbConfig, perturb
from zoo.recipe import Recipe
from zoo.store import Zoo
from zoo.tasks.base import Task

Result = TypeVar("Result")


def demo(
    recipe: Recipe,
    task: Task,
    out: Path,
    command: tuple[str, ...],
    device: torch.device,
    say: Callable[[str], None],
) -> tuple[Comparison, dict[str, Any]]:
    """Run all stages into `out`; an interrupted call is continued by the same call.

    Returns the comparison and what `rpg demo --json` prints.
    """
    seconds: dict[str, float] = {}

    def stage(name: str, work: Callable[[], Result]) -> Result:
        say(f"[{len(seconds) + 1}/4] {name}")
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

    def compared() -> Comparison:
        candidates = [Candidate("generated", generated, "generated")]
        candidates += baselines(originals, "train", eval_config, origin, out / "report" / "baselines")
        return compare(originals, "train", candidates, task, out / "report")

    comparison = stage("compare", compared)
    report = write_report(comparison, {"generated": read_losses(run)}, provenance_of(command), out / "report")
    return comparison, comparison_json(comparison) | {"report": str(report), "seconds": seconds}


def learnt_split(originals: Zoo, generated: Zoo) -> str:
    """The split of `originals` that `generated` was made from. Raises ValueError when it was made from another zoo."""
    split_of = {entry.sha256: entry.split for entry in originals.entries}
    splits = {split_of.get(parent) for entry in generated.entries for parent in entry.parents}
    split = splits.pop() if len(splits) == 1 else None
    if split is None:
        raise ValueError(
            f"{generated.path} was not generated from {originals.path}; name its originals with --originals"
        )
    return split


def baselines(originals: Zoo, split: str, config: EvalConfig, origin: Origin, out: Path) -> list[Candidate]:
    """What a generator has to beat, made of the networks of `split`, as zoos under `out`."""
    train = originals.select(split)
    common: dict[str, Any] = {"n": config.n, "seed": config.seed}
    noised = "a training checkpoint plus Gaussian noise, so many standard deviations of each tensor"
    wanted = {
        f"noised_{sigma:g}": (PerturbConfig(kind="noise", sigma=sigma, **common), noised) for sigma in config.noise
    }
    mean = "the mean of the weights of all training checkpoints, one network"
    wanted["mean_of_all"] = PerturbConfig(kind="mean", **common), mean
    if config.average_of < len(train):
        average = PerturbConfig(kind="average", average_of=config.average_of, **common)
        about = "means of that many training checkpoints drawn at random"
        wanted[f"average_of_{config.average_of}"] = average, about
    gaussian = "draws from independent Gaussians fitted to every weight over the training checkpoints"
    wanted["gaussian"] = PerturbConfig(kind="gaussian", **common), gaussian
    return [
        Candidate(name, perturb(settings, originals, train, origin, out / name), "baseline", about)
        for name, (settings, about) in wanted.items()
    ]
