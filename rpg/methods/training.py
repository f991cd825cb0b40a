"""Trains what methods learn with: any module, by any loss, resumable at any step, to the same bytes.

A step is a function of (seed, step) alone (zoo.seeds). Its losses go to metrics.jsonl and to trackers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Protocol, TypeAlias, TypeVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import Self

from rpg.methods.base import Machine, MethodConfig
from rpg.processes import Processes
from rpg.run import Run
from zoo.checkpoint import load_tensors, save_tensors
from zoo.errors import Corrupt, Failed
from zoo.files import Journal, remove_temporary, sha256_file
from zoo.progress import Bar, progress
from zoo.seeds import Seed
from zoo.spent import Stopwatch
from zoo.structure import Frozen
from zoo.training.malloc import keep_freed_memory
from zoo.training.state import gather_full, pack_state, read_state, unpack_state, write_state

log = logging.getLogger(__name__)

LOG_EVERY = 10  # steps between lines of metrics.jsonl

Module = TypeVar("Module", bound=nn.Module)
Beta: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class Optimisation(Frozen):
    """How a module is trained: AdamW with these `betas`. The learning rate rises along a line over `warmup` steps and
    from there falls along half a cosine to 0 at the last. `gradient_clipping` is the largest norm of the gradient,
    `ema` the decay per step of an average of the weights that is then the trained module.
    """

    steps: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    warmup: NonNegativeInt = 0
    gradient_clipping: PositiveFloat | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    save_every: PositiveInt = 1000
    seed: Seed = 0


def warn_of_warmup(config: MethodConfig) -> None:
    """Say which learning rates a method's settings never reach."""
    for name, settings in config:
        if isinstance(settings, Optimisation) and settings.warmup >= settings.steps:
            log.warning(
                f"method.{name}.learning_rate = {settings.learning_rate:g} is never reached: it rises over "
                f"method.{name}.warmup = {settings.warmup}, and there are {settings.steps} steps; lower the warmup"
            )


class Settings(Protocol):
    """What a training needs to know; `Optimisation`, or a method's own section."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def gradient_clipping(self) -> float | None: ...
    @property
    def save_every(self) -> int: ...


class EMA:
    """The exponential moving average of a model's state dict, from its initial weights on.

    BatchNorm's running statistics are averaged like the weights: as they stand they belong to the last weights, and
    lie far from what the averaged ones produce. Counters are the model's own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's weights after a step."""
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, current in model.state_dict().items():
            if current.is_floating_point():
                averages.append(_local(self.values[name]))
                currents.append(_local(current))
            else:
                self.values[name].copy_(current)
        self._average(averages, currents, 0)


def _local(tensor: Tensor) -> Tensor:
    """This process's part, where FSDP2 has sharded it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@dataclass(frozen=True, eq=False)
class Stage:
    """One module of a run and how it is trained, with its unfinished state in `state_path`. `backward(step)` adds the
    step's gradients and gives this process's share of its loss; `remedy` says what to do when that is not finite.
    Of several stages, each has a `name`; `before` steps and `lines` of metrics.jsonl are those of earlier ones.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    settings: Settings
    backward: Callable[[int], Tensor]
    state_path: Path
    remedy: str
    average: EMA | None = None
    warmup: int = 0
    name: str = ""
    before: int = 0
    lines: int = 0

    def unpack(self) -> int:
        """Take up the saved state, if there is one; how many steps are done."""
        if not self.state_path.is_file():
            return 0
        return unpack_state(read_state(self.state_path), self.model, self.optimizer, self._averages)

    def pack(self, step: int, keep: bool) -> dict[str, Tensor]:
        """The state after so many steps; all processes must call this, those that do not `keep` it get nothing."""
        return pack_state(self.model, self.optimizer, step, self._averages, keep=keep)

    @property
    def _averages(self) -> dict[str, Tensor]:
        return self.average.values if self.average else {}


def optimise(stage: Stage, run: Run, processes: Processes, trackers: bool = True) -> dict[str, Tensor]:
    """Train from the last saved state on. The trained tensors, averages where there are any, whole, in the first of the
    processes; nothing in others.

    Raises Failed when the loss is not finite or the disk is full; the last saved state is kept.
    """
    settings, first = stage.settings, processes.rank == 0
    if processes.device.type == "cpu":
        keep_freed_memory()
    watch = run.stopwatch or Stopwatch(processes.device, run.spent_path)
    step = saved = begun_at = stage.unpack()
    if trackers:
        processes.start_trackers(run.name, sha256_file(run.record_path)[:16], stage.before + step)
    with _curve(run, stage, step, processes) as curve:
        begun = watch.seconds
        while step < settings.steps:
            learning_rate = cosine(settings, step, stage.warmup)
            for group in stage.optimizer.param_groups:
                group["lr"] = learning_rate
            stage.optimizer.zero_grad(set_to_none=True)
            curve.window.append(stage.backward(step))
            if settings.gradient_clipping:
                torch.nn.utils.clip_grad_norm_(stage.model.parameters(), settings.gradient_clipping)
            stage.optimizer.step()
            if stage.average:
                stage.average.update(stage.model)
            step += 1
            if step % LOG_EVERY == 0 or step == settings.steps:
                curve.draw(step, learning_rate)
                if step - saved >= settings.save_every:
                    state = stage.pack(step, first)
                    if first:
                        write_state(stage.state_path, state)
                        watch.save()
                    saved = step
    if step > begun_at:
        watch.note(steps_per_second=(step - begun_at) / (watch.seconds - begun))
    return gather_full(stage.average.values if stage.average else stage.model.state_dict(), first)


class _Curve:
    """What becomes of the losses in `window`, those since the last line: a line of metrics.jsonl, the bar, trackers."""

    def __init__(self, stage: Stage, journal: Journal | None, bar: Bar, processes: Processes) -> None:
        self.stage, self.journal, self.bar, self.processes = stage, journal, bar, processes
        self.window: list[Tensor] = []

    def draw(self, step: int, learning_rate: float) -> None:
        """Add the mean loss of the window. Raises Failed when it is not finite, in all processes."""
        mean = self.processes.total(torch.stack(self.window).float().mean()).item()
        if not math.isfinite(mean):
            raise Failed(f"the loss is {mean} at step {step}; {self.stage.remedy} (the last saved state is kept)")
        stage, values = self.stage, {"loss": mean, "learning_rate": learning_rate}
        if self.journal:
            named = {"stage": stage.name} if stage.name else {}
            self.journal.append({"step": stage.before + step, **named, **values})
        prefix = f"{stage.name}/" if stage.name else ""
        self.processes.log({prefix + name: value for name, value in values.items()}, stage.before + step)
        self.bar.advance(len(self.window), f"loss {mean:.4f}")
        self.window.clear()


@contextmanager
def _curve(run: Run, stage: Stage, step: int, processes: Processes) -> Iterator[_Curve]:
    """The curve of a stage that goes on after `step`; the first process writes it."""
    steps = stage.settings.steps
    if processes.rank > 0:
        with progress("train", steps, show=False) as bar:
            yield _Curve(stage, None, bar, processes)
        return
    what = f"training {run.path}" + (f" ({stage.name})" if stage.name else "")
    with Journal(run.metrics_path) as journal, progress(what, steps) as bar:
        if run.trained:  # by another process, while this one had not yet got the curve for itself
            raise Failed(f"{run.path} was trained by another process meanwhile; it is ready")
        remove_temporary(run.path)  # nobody else writes to the run: they would hold the curve
        logged = stage.lines + lines_of(step)
        if len(journal.records) < logged:
            raise Corrupt(f"{run.metrics_path} has lost lines; remove {run.path} and train again")
        journal.keep(logged)
        bar.skip(step)
        yield _Curve(stage, journal, bar, processes)


def lines_of(steps: int) -> int:
    """How many lines of metrics.jsonl so many steps leave."""
    return -(-steps // LOG_EVERY)


def cosine(settings: Settings, step: int, warmup: int = 0) -> float:
    """Learning rate of this step: a line from 0 to `learning_rate` over the first `warmup`, and from there half a
    cosine to 0.
    """
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    return settings.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (settings.steps - warmup))) / 2


class Trainer:
    """Trains the modules of a run one after the other, in this process. A module that is trained is a file of the run,
    `NAME.safetensors`; until then, `NAME.state.safetensors` is what to continue from.
    """

    def __init__(self, run: Run, machine: Machine) -> None:
        self.run, self.device, self.data_root = run, machine.device, machine.data_root
        self.files: list[Path] = []
        self._processes = Processes(machine.device, machine.trackers, run.path / "logs")
        self._before = self._lines = 0
        self._tracked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._processes.close()

    def keep(self, *files: Path) -> None:
        """Files of the run that are finished, and stay: a continued training reads them again."""
        self.run.finish(files)
        self.files += files

    def train(
        self, name: str, model: nn.Module, settings: Optimisation, loss: Callable[[nn.Module, int], Tensor]
    ) -> nn.Module:
        """The module, trained by `loss(model, step)`, a scalar, and in evaluation mode. `method.NAME` of the recipe has
        these settings.

        Raises Failed when the loss is not finite or the disk is full, Corrupt for damaged files.
        """
        path, state_path = self.run.path / f"{name}.safetensors", self.run.path / f"{name}.state.safetensors"
        model.to(self.device)
        if path.is_file():
            load_module(model, path)
        else:
            self._optimise(name, model.train(), settings, loss, state_path)
            save_tensors(path, {key: value.cpu() for key, value in model.state_dict().items()})
        self.keep(path)
        state_path.unlink(missing_ok=True)
        self._before, self._lines = self._before + settings.steps, self._lines + lines_of(settings.steps)
        return model.eval()

    def _optimise(
        self,
        name: str,
        model: nn.Module,
        settings: Optimisation,
        loss: Callable[[nn.Module, int], Tensor],
        state_path: Path,
    ) -> None:
        def backward(step: int) -> Tensor:
            found = loss(model, step)
            found.backward()
            return found.detach()

        optimizer = torch.optim.AdamW(
            model.parameters(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        stage = Stage(
            model=model,
            optimizer=optimizer,
            settings=settings,
            backward=backward,
            state_path=state_path,
            remedy=f"lower method.{name}.learning_rate",
            average=EMA(model, settings.ema) if settings.ema else None,
            warmup=settings.warmup,
            name=name,
            before=self._before,
            lines=self._lines,
        )
        trained = optimise(stage, self.run, self._processes, trackers=not self._tracked)
        self._tracked = True
        model.load_state_dict(trained)


def load_module(model: nn.Module, path: Path) -> None:
    """Fill a module from its file. Raises Corrupt when the file's tensors are not this module's."""
    model.load_state_dict(_tensors_of(model, path))


def built(build: Callable[[], Module], path: Path) -> Module:
    """A module as its file has it. Raises Corrupt when the file's tensors are not those of what is built, before memory
    is taken for what settings from elsewhere claim.
    """
    with torch.device("meta"):
        claimed = build()
    tensors = _tensors_of(claimed, path)
    module = build()
    module.load_state_dict(tensors)
    return module


def _tensors_of(model: nn.Module, path: Path) -> dict[str, Tensor]:
    tensors = load_tensors(path)
    if {n: t.shape for n, t in model.state_dict().items()} != {n: t.shape for n, t in tensors.items()}:
        raise Corrupt(f"{path} is not the module of this run's settings; remove {path.parent} and train again")
    return tensors
