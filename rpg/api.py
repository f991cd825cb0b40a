"""The stages from Python: train, generate, score, report. What the command lines call.

Each stage is planned first, which refuses what cannot work before any work and makes the artefact's origin; a plan is
then carried out, or only shown (`--dry-run`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg.devices import DEVICES, Device, measure
from rpg.methods.base import DrawConfig, Estimate, Machine, Method, MethodConfig, TrainingSet
from rpg.methods.ceiling import warn_of_codec
from rpg.methods.rpg.sizes import CHECKPOINTS, adequate_sizes
from rpg.methods.training import warn_of_warmup
from rpg.publish import fetch_run
from rpg.run import Run
from rpg.sweep import PARAMETERS, parse_sweep, row
from zoo.api import PYTHON
from zoo.conditions import is_text
from zoo.console import is_first_process, pick_device
from zoo.errors import Corrupt, Failed, MissingData, MissingExtra, suggest
from zoo.files import remove_temporary
from zoo.health import warn_of_guessers
from zoo.hub.client import is_address, parse_address
from zoo.manifest import Origin, Source, differences, settings_of, versions
from zoo.names import short_name
from zoo.recipe import (
    Recipe,
    is_recipe,
    keyword_overrides,
    load_method,
    load_recipe,
    method_names,
    recipe_names,
    task_of,
    validate,
)
from zoo.scoring import Score, Scorer, score
from zoo.spent import Stopwatch
from zoo.store import Zoo, find
from zoo.structure import Structure, TensorSpec
from zoo.table import Record
from zoo.training.collect import jobs
from zoo.writer import ZooWriter, refuse_another

log = logging.getLogger(__name__)


def load(place: Path | str) -> Run:
    """A trained run: its directory, its name under runs/, or `hf://user/name`, its files checked. Raises MissingData
    when there is none, Corrupt when a file has changed.

    >>> rpg.load("linear-gaussian").facts
    {'networks': 4}
    """
    run = fetch_run(parse_address(str(place))) if is_address(place) else Run(find(place, "runs"))
    return run.require_trained()


@dataclass(frozen=True)
class Training:
    """What `train` does, before it is done."""

    config: MethodConfig
    request: DrawConfig
    data: TrainingSet
    origin: Origin
    path: Path
    machine: Machine

    @property
    def unfinished(self) -> bool:
        """Whether there is anything left to train: a closed form has nothing, and a trained run neither."""
        return self.config.build().about.trained and not Run(self.path).trained

    def estimate(self) -> Estimate:
        """What it costs on this machine, whose speed is measured for about a second."""
        structure, count = self.data.zoo.structure, len(self.data.entries)
        return self.config.build().estimate(structure, count, self.request, measure(self.machine.device))

    def carry_out(self) -> Run:
        """Train, or continue, into `path`, and warn of a codec that loses too much."""
        run = Run(self.path)
        fresh, begun = not run.trained, run.record_path.is_file()
        if is_first_process():
            run.begin(self.origin, self.data, self.request)
        if not run.trained:
            run.stopwatch = Stopwatch(self.machine.device, run.spent_path)
        try:
            self.config.build().fit(self.data, run, self.machine)
        except (ValueError, Corrupt):  # these networks are no good
            if is_first_process() and not begun:
                run.forget()
            raise
        if is_first_process():
            remove_temporary(run.path)
        if fresh and is_first_process():
            warn_of_codec(run, self.data, self.machine)
        return run


def train(
    what: Zoo | Path | str,
    method: str | None = None,
    *,
    zoo: Zoo | Path | str | None = None,
    split: str = "train",
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    data_root: Path | None = None,
    device: str = "auto",
    track: Sequence[str] = (),
    **settings: Any,
) -> Run:
    """Let a method learn the networks of one split of a zoo (default place: runs/<recipe or zoo>, with the method's
    name where one is given). An interrupted call is continued by the same call, to the same bytes on the same hardware.

    `what` is a zoo, or a recipe, which then says how, and whose zoo is at zoos/<recipe> or `zoo`. `method` is the name
    of settings (`rpg methods`) or a YAML file of them; without one and without a recipe's, it is the size of RPG that
    suits the networks. `settings` are fields of the method by their own names (`steps=500`), `overrides` any by their
    paths (`["method.train.steps=500"]`).

    Raises ValueError for what does not fit together, MissingData when there is no such zoo, Failed when learning
    diverges.

    >>> rpg.train("linear", method="gaussian", width=0.5)
    Run('runs/linear-gaussian')
    """
    plan = plan_training(
        what,
        method,
        zoo=zoo,
        split=split,
        out=out,
        overrides=overrides,
        settings=settings,
        data_root=data_root,
        device=device,
        track=track,
    )
    warn_of_guessers(plan.data.zoo, split)
    return plan.carry_out()


def plan_training(
    what: Zoo | Path | str | None,
    method: str | None = None,
    *,
    zoo: Zoo | Path | str | None = None,
    split: str = "train",
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    track: Sequence[str] = (),
    command: tuple[str, ...] = PYTHON,
) -> Training:
    """What `train` does. Raises what it raises before any work."""
    if method is not None and not str(method).strip():
        raise ValueError("the name of the method is empty; expected settings (`rpg methods`) or a YAML file of them")
    if settings:
        overrides = [*overrides, *keyword_overrides({"method": _chosen(what, method, zoo)}, settings)]
    recipe, place = _recipe_and_zoo(what, overrides, method)
    if zoo is not None and what is not None and recipe is None:
        raise ValueError(f"two zoos to learn from, {what} and {zoo}; expected one, or a recipe and a zoo")
    place = place if zoo is None else zoo
    if place is None or not str(place if isinstance(place, Path | str) else place.path):
        raise ValueError("say what to learn: a recipe, or a zoo by its place or name; `rpg ls` shows what is there")
    originals = place if isinstance(place, Zoo) else Zoo.open(place)
    if recipe and recipe.method is None:
        recipe = load_recipe(str(what), overrides, fitting_size(originals))
    if recipe:
        _refuse_another_task(recipe, originals)
        config, request = recipe.method, recipe.generate
        if said := [pair for pair in overrides if pair.startswith("zoo.")]:
            log.warning("--set %s is ignored: the networks of %s are there already", said[0], originals.path)
    else:
        config, request = load_method(method or fitting_size(originals), overrides)
    assert isinstance(config, MethodConfig)
    assert isinstance(request, DrawConfig)
    data = TrainingSet.of(originals, split, config.along)
    machine = Machine(pick_device(device), tuple(track), data_root)
    name = recipe.name if recipe else originals.name
    origin = Origin(
        name=name if recipe else originals.manifest.origin.name,
        kind="trained",
        task=originals.manifest.origin.task,
        settings={"split": split, "method": settings_of(config)},
        parents=(originals.sha256,),
        source=Source(zoo=originals.sha256, name=originals.name, split=split),
        command=command,
        versions=versions(),
    )
    path = Path(out or Path("runs") / (f"{name}-{short_name(method)}" if method else name))
    Run(path).refuse_another(origin)
    if not Run(path).trained:  # what is learnt needs nothing more
        config.build().check(data, machine)
        config.check_draw(request, data)
        warn_of_warmup(config)
    return Training(config, request, data, origin, path, machine)


def _chosen(what: Zoo | Path | str | None, method: str | None, zoo: Zoo | Path | str | None) -> MethodConfig:
    """The settings of the method that would learn this."""
    recipe, place = _recipe_and_zoo(what, (), method)
    config: Any = recipe.method if recipe else load_method(method)[0] if method else None
    if config is None:
        found = zoo or place
        assert found is not None
        config = load_method(fitting_size(found if isinstance(found, Zoo) else Zoo.open(found)))[0]
    assert isinstance(config, MethodConfig)
    return config


def fitting_size(zoo: Zoo) -> str:
    """The size of RPG that suits networks as large as those of the zoo (paper, Table 12)."""
    return adequate_sizes(zoo.structure.numel)[0].lower()


def _recipe_and_zoo(
    what: Zoo | Path | str | None, overrides: Sequence[str], method: str | None
) -> tuple[Recipe | None, Zoo | Path | str | None]:
    """The recipe that `what` names, if it does, and where its zoo is."""
    if what is None or isinstance(what, Zoo):
        return None, what
    name = str(what)
    if is_recipe(name):
        recipe = load_recipe(name, overrides, method)
        return recipe, Path("zoos") / recipe.name
    if is_address(what) or find(what, "zoos").is_dir():
        return None, what
    if name in method_names():
        raise ValueError(f"{name} is a method; say which networks it is to learn: rpg train ZOO --method {name}")
    raise ValueError(f"there is no recipe and no zoo {name!r}{suggest(name, recipe_names())}")


def _refuse_another_task(recipe: Recipe, zoo: Zoo) -> None:
    """Raise ValueError unless the networks of the zoo are those of the recipe."""
    otherwise = f"or learn them without the recipe: rpg train {zoo.path} --method NAME"
    task = zoo.manifest.origin.task
    if not task:
        raise ValueError(
            f"nobody said what the networks of {zoo.path} do, so they may not be those of recipe {recipe.name}; import "
            f"them again with --recipe, {otherwise}"
        )
    changed = differences({"task": settings_of(recipe.task)}, {"task": task})
    if not changed:
        try:
            changed = recipe.task.structure().diff(zoo.structure)
        except (MissingData, MissingExtra):
            changed = []  # a library or a base network is not here; scoring, which needs it, checks the same
    if changed:
        raise ValueError(
            f"{zoo.path} holds other networks than recipe {recipe.name} is for: {'; '.join(changed[:3])}; give another "
            f"zoo with --zoo, {otherwise}"
        )


@dataclass(frozen=True)
class Generation:
    """What `generate` does, before it is done."""

    run: Run
    method: Method
    request: DrawConfig
    count: int
    origin: Origin
    path: Path
    machine: Machine

    def carry_out(self, scorer: Scorer | None = None) -> Zoo:
        """Generate, or continue, into `path`. A scorer scores each network when it is there."""
        record = self.run.record()
        with ZooWriter(self.path, self.origin, record.structure, self.run.frozen()) as writer:
            writer.on_added = scorer.said if scorer else None
            if not writer.complete:
                writer.stopwatch, there = Stopwatch(self.machine.device), len(writer.done)
                try:
                    self.method.draw(self.run, self.request, writer, self.machine)
                except (Failed, Corrupt):
                    writer.forget()  # other settings may do, and the place is free for them
                    raise
                made = len(writer.done) - there
                writer.stopwatch.note(networks_per_second=made / max(writer.stopwatch.seconds, 1e-9))
            return writer.finish()

    def carry_out_and_score(self, data_root: Path | None, out: Path) -> tuple[Zoo, list[Score]]:
        """Generate and score each network as it comes on the test data of the run's task, into `out`. Raises ValueError
        where nobody said what the networks do, MissingData without the data; both before any work.
        """
        config = task_of(self.origin)
        if config.conditions() and not hasattr(self.request, "conditions"):
            raise ValueError(
                f"networks of {self.path} would be made by a method that is told no task, so nobody knows which are "
                "theirs; leave --score out"
            )
        task = config.build(data_root, self.machine.device)
        if any(is_text(condition) for condition in getattr(self.request, "conditions", ())):
            raise ValueError(f"networks of {self.path} would be made for words, which say no labels; leave --score out")
        with Scorer(task, out, self.run.frozen()) as scorer:
            zoo = self.carry_out(scorer)
        return zoo, score(zoo, task, out)  # those of an interrupted call, too


def generate(
    run: Run | Path | str,
    *,
    out: Path | str | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    **settings: Any,
) -> Zoo:
    """Draw new networks from a trained run (default place: zoos/<run>-generated). An interrupted call is continued by
    the same call.

    `settings` are fields of the recipe's section `generate:` (`n=10`, `seed=1`, of RPG `sampler="ddim"`, ...). Raises
    ValueError for one that the method does not have, MissingData when there is no such run, Failed when networks are
    not finite.

    >>> rpg.generate("linear-gaussian", n=3)
    Zoo('zoos/linear-gaussian-generated', 3 checkpoints of 8 values)
    """
    return plan_generation(run, settings, out=out, data_root=data_root, device=device).carry_out()


def plan_generation(
    run: Run | Path | str,
    settings: dict[str, Any],
    *,
    out: Path | str | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    command: tuple[str, ...] = PYTHON,
) -> Generation:
    """What `generate` does. Raises what it raises before any work."""
    trained = run if isinstance(run, Run) else load(run)
    record, method = trained.record(), trained.method()
    request = validate(trained.config().draw_config, {**record.draw, **settings}, "generate")
    trained.config().check_draw(request)
    origin = Origin(
        name=record.origin.name,
        kind="generated",
        task=record.origin.task,
        settings={**record.origin.settings, "generate": settings_of(request)},
        parents=(trained.sha256, *(Zoo.open(place).sha256 for place in request.sources())),
        source=record.origin.source,
        command=command,
        versions=versions(),
    )
    path = Path(out or Path("zoos") / f"{trained.name}-generated")
    refuse_another(path, origin)
    machine = Machine(pick_device(device), data_root=data_root)
    count = method.requested(trained, request, machine)
    return Generation(trained, method, request, count, origin, path, machine)


def plan_estimate(
    recipe: str, method: str | None, overrides: Sequence[str], device: str, parameters: int | None
) -> tuple[str, Estimate]:
    """What a recipe, or a method's settings for networks of so many `parameters`, costs on a device, by name or one
    that is here; and the name. Raises ValueError for settings that do not fit together.
    """
    return estimate_recipe(recipe, method, overrides, find_device(device), parameters)


def plan_sweep(
    recipe: str, method: str | None, overrides: Sequence[str], device: Device, parameters: int | None, sweep: str
) -> tuple[str, list[Record]]:
    """The same at each value of a sweep (rpg.sweep.parse_sweep), a row each; and the swept keys. Raises ValueError, for
    methods that train nothing, too.
    """
    keys, values = parse_sweep(sweep)
    settings = [key for key in keys if key != PARAMETERS]
    rows = []
    for value in values:
        changed = [*overrides, *(f"{key}={value}" for key in settings)]
        network = value if PARAMETERS in keys else parameters
        _, found = estimate_recipe(recipe, method, changed, device, network)
        if "training" not in found.figures:
            raise ValueError("--sweep shows what training takes, and this method trains nothing; give one that does")
        rows.append(row(value, found.figures))
    return " = ".join(keys), rows


def find_device(device: str) -> Device:
    """A device of the data sheets by name, or one that is here, measured."""
    try:
        return DEVICES[device] if device in DEVICES else measure(pick_device(device))
    except ValueError as error:
        raise ValueError(f"{error}, or one of data sheets: {', '.join(DEVICES)}") from None


def estimate_recipe(
    recipe: str, method: str | None, overrides: Sequence[str], device: Device, parameters: int | None
) -> tuple[str, Estimate]:
    """`plan_estimate` on a device that is known."""
    checkpoints = CHECKPOINTS
    if recipe in method_names():
        if method is not None:
            raise ValueError(f"{recipe} and {method} are both methods; expected one of them, or a recipe")
        name = recipe
        config, request = load_method(recipe, overrides)
        assert isinstance(config, MethodConfig)
        if config.by_neuron:
            raise _of_neurons(config, f"give a recipe: rpg estimate digits --method {recipe}")
        if parameters is None:
            raise ValueError(f"{recipe} is a method and has no network; say how large one is: --parameters 50000")
    else:
        plan = load_recipe(recipe, overrides, method)
        if plan.method is None or plan.generate is None:
            raise ValueError(f"recipe {plan.name} has no method; say which: --method rpg-tiny")
        name, config, request = plan.name, plan.method, plan.generate
        training = [job for job in jobs(plan.zoo, plan.task.conditions()) if job.split == "train"]
        assert isinstance(plan.method, MethodConfig)
        if parameters and plan.method.by_neuron:
            raise _of_neurons(plan.method, "leave --parameters out")
        checkpoints = (plan.zoo.saved if plan.method.along else plan.zoo.checkpoints) * len(training)
    assert isinstance(config, MethodConfig)
    assert isinstance(request, DrawConfig)
    structure = _one_tensor(parameters) if parameters else plan.task.structure()
    return name, config.build().estimate(structure, checkpoints, request, device)


def _of_neurons(config: MethodConfig, remedy: str) -> ValueError:
    return ValueError(f"tokens of {config.name} are neurons, of which a number of values says nothing; {remedy}")


def _one_tensor(values: int) -> Structure:
    return Structure(tensors=(TensorSpec(name="weights", shape=(values,), dtype="float32", kind="float"),))
