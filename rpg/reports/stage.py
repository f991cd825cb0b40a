"""The stage that reports: generated zoos beside the originals they were learnt from, and what they have to beat."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rpg.api import load, plan_generation, plan_training
from rpg.config import EvalConfig
from rpg.evaluation import Place, find_source, split_learnt
from rpg.reports.all_classes import classifier_of, require_classifier
from rpg.reports.ceiling import reconstructions
from rpg.reports.compare import Candidate, Comparison, compare
from rpg.reports.comparisons import read_comparison
from rpg.reports.inputs import REPORT, networks, refuse_foreign
from rpg.reports.labels import BASELINES, kind_of, labels
from rpg.reports.made_by import made_by
from rpg.reports.page import provenance_of
from rpg.reports.plots import check_forms
from rpg.reports.printed import comparison_json
from rpg.reports.report import summary, write_report
from rpg.reports.task_report import headline, tasks_json, tasks_text, write_task_report
from rpg.reports.tasks import TaskComparison, compare_tasks
from rpg.reports.together import Named, together, without_baselines
from rpg.run import Run, read_losses
from zoo.api import PYTHON
from zoo.console import pick_device
from zoo.derive.worth import read_worth
from zoo.errors import MissingData
from zoo.manifest import settings_of
from zoo.recipe import eval_of, load_recipe, task_of
from zoo.spent import Spent
from zoo.store import Zoo, absolute, find
from zoo.tasks.base import LabelledTask, Task, TaskConfig
from zoo.tasks.recalibrated import recalibrated
from zoo.tasks.scripted import Script, with_script
from zoo.tasks.wrapped import build_to_score

log = logging.getLogger(__name__)

Losses = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Report:
    """A finished report: its HTML page, the comparison behind it, and what training and generating took, by the labels
    of the groups, where it is on record.
    """

    path: Path
    comparison: Comparison | TaskComparison
    spent: dict[str, dict[str, Spent]] = field(default_factory=dict)

    def text(self) -> str:
        """The tables and the verdict."""
        if isinstance(self.comparison, TaskComparison):
            return f"{tasks_text(self.comparison)}\n\n{headline(self.comparison)}\n\nreport: {self.path}"
        return f"{summary(self.comparison)}\n\nreport: {self.path}"

    def show(self) -> None:
        """Print the tables, the verdict and where the page is."""
        print(self.text())

    def to_json(self) -> dict[str, Any]:
        """What `rpg report --json` prints."""
        spent = {name: {k: s.model_dump(mode="json") for k, s in of.items()} for name, of in self.spent.items()}
        about = {"report": str(self.path), "spent": spent}
        if isinstance(self.comparison, TaskComparison):
            return tasks_json(self.comparison) | about
        return comparison_json(self.comparison) | about


@dataclass(frozen=True)
class Reporting:
    """What `report` does, before it is done."""

    originals: Zoo
    split: str
    zoos: Sequence[Zoo]
    baselines: bool
    config: EvalConfig
    task_overrides: Sequence[str]
    path: Path
    runs: Sequence[str] = ()
    data_root: Path | None = None
    device: str = "auto"
    plots: Sequence[str] = ()
    command: tuple[str, ...] = field(default=PYTHON)
    script: Script | None = None
    classifier: Place | None = None

    def carry_out(self) -> Report:
        """Score, compare and write, or continue, into `path`."""
        task, origin = None, self.originals.manifest.origin
        if origin.task:
            config = task_of(origin, self.task_overrides)
            built = build_to_score(origin, config, self.data_root, pick_device(self.device))
            built = recalibrated(built) if self.config.recalibrate else built
            task = with_script(built, self.script)
        elif self.script:
            raise ValueError(
                f"--script {self.script.name} measures networks of a task; nobody said what those of {origin.name} do"
            )
        if task is not None and task.conditions:
            return self._task_by_task(config, cast("LabelledTask", task))
        if self.classifier is not None:
            raise ValueError(f"--classifier {self.classifier} is for networks of binary tasks; leave it out")
        comparison, spent = self.compared(task), self._spent()
        names = self._labels()
        zoos = {"original": self.originals.path} | {names[zoo.sha256]: zoo.path for zoo in self.zoos}
        provenance = provenance_of(self.command) | _in_words(spent)
        worth = read_worth(Path("scores") / self.originals.name, self.originals)
        page = write_report(comparison, self._losses(), provenance, self.path, self.plots, zoos, worth)
        return Report(page, comparison, spent)

    def _labels(self) -> dict[str, str]:
        return labels(self.zoos, BASELINES if self.baselines else ())

    def compared(self, task: Task | None) -> Comparison:
        """All groups beside the originals; without a task by their weights alone."""
        names = self._labels()
        candidates = [
            Candidate(names[zoo.sha256], zoo, kind_of(zoo), made_by(zoo, find_run(zoo, self.runs))) for zoo in self.zoos
        ]
        if self.baselines:
            beside = self.path / "baselines"
            candidates += make_baselines(self.originals, self.split, self.config, beside, self.device)
            runs = {names[zoo.sha256]: run for zoo in self.zoos[::-1] if (run := find_run(zoo, self.runs))}
            device = pick_device(self.device)
            candidates += reconstructions(
                runs, len({*names.values()}), self.originals, self.split, self.config.n, beside, device
            )
        origin = self.originals.manifest.origin
        symmetries = task_of(origin).symmetries if origin.task else None
        return compare(self.originals, self.split, candidates, task, self.path, symmetries)

    def _task_by_task(self, config: TaskConfig, task: LabelledTask) -> Report:
        if len(self.zoos) > 1:
            raise ValueError(
                f"got {len(self.zoos)} zoos of networks for many tasks; a report task by task takes one, so give one"
            )
        if not self.baselines or settings_of(self.config).keys() - {"recalibrate"}:
            log.warning("--no-baselines and eval.* are ignored: reports task by task have baselines of their own")
        origin = self.originals.manifest.origin.model_copy(update={"command": self.command})
        known = classifier_of(config, self.data_root, pick_device(self.device), self.classifier)
        tasks = compare_tasks(self.originals, self.zoos[0], task, origin, self.path, self.split, known)
        zoos, spent = {"original": self.originals.path, "generated": self.zoos[0].path}, self._spent()
        provenance = provenance_of(self.command) | _in_words(spent)
        page = write_task_report(tasks, self._losses(), provenance, self.path, self.plots, zoos)
        return Report(page, tasks, spent)

    def _losses(self) -> Losses:
        """The loss curves of the runs that are at hand, by the labels of their groups."""
        names = self._labels()
        found = {}
        for zoo in self.zoos:
            run = find_run(zoo, self.runs)
            if run and (losses := read_losses(run)):
                found[names[zoo.sha256]] = losses
        return found

    def _spent(self) -> dict[str, dict[str, Spent]]:
        """What training and generating took, by the labels of the groups."""
        names = self._labels()
        found: dict[str, dict[str, Spent]] = {}
        for zoo in self.zoos:
            run = find_run(zoo, self.runs)
            took = {"training": run.spent if run else None, "generating": zoo.manifest.spent}
            found[names[zoo.sha256]] = {stage: spent for stage, spent in took.items() if spent is not None}
        return {name: took for name, took in found.items() if took}


def _in_words(spent: dict[str, dict[str, Spent]]) -> dict[str, str]:
    return {f"{stage} {name}": took.text() for name, stages in spent.items() for stage, took in stages.items()}


def report(
    *zoos: Zoo | Place,
    originals: Zoo | Place | None = None,
    split: str | None = None,
    baselines: bool = True,
    runs: Sequence[str] = (),
    out: Place | None = None,
    overrides: Sequence[str] = (),
    data_root: Path | None = None,
    device: str = "auto",
    plots: Sequence[str] = (),
    classifier: Place | None = None,
) -> Report:
    """Set generated networks beside the originals that they were learnt from, held-out originals, and with `baselines`
    what has to be beaten; write Markdown, HTML, CSV and JSON (default place: reports/<zoo>).

    The originals may be among the zoos, or are found by their hash; zoos of one method that differ in their seeds alone
    are seeds of one generator. Networks of which nobody knows what they do are compared by their weights. `overrides`
    change the sections `eval:` and `task:`; `classifier` is for binary tasks (rpg.reports.all_classes). Raises
    ValueError for zoos that do not go together, MissingData when originals or data are not there.

    >>> rpg.report("linear-gaussian-generated", baselines=False).path.as_posix()
    'reports/linear-gaussian-generated/report.html'
    """
    return plan_report(
        zoos,
        originals=originals,
        split=split,
        baselines=baselines,
        runs=runs,
        out=out,
        overrides=overrides,
        data_root=data_root,
        device=device,
        plots=plots,
        classifier=classifier,
    ).carry_out()


def plan_report(
    zoos: Sequence[Zoo | Place],
    *,
    originals: Zoo | Place | None = None,
    split: str | None = None,
    out: Place | None = None,
    overrides: Sequence[str] = (),
    recipe: str | None = None,
    baselines: bool = True,
    **where: Any,
) -> Reporting:
    """What `report` does; with a `recipe`, its section `eval:` holds. Raises what it raises before any work."""
    opened = [zoo if isinstance(zoo, Zoo) else Zoo.open(zoo) for zoo in zoos]
    source = None if originals is None else originals if isinstance(originals, Zoo) else Zoo.open(originals)
    if source is None:
        source, opened = _split_off_originals(opened)
    if not opened:
        raise ValueError("say which networks are to be compared with the originals: a generated zoo at least")
    source = source or _source_of(opened[0])
    splits = {split_learnt(zoo, source) for zoo in opened} - {None}
    if split is None and len(splits) > 1:
        raise ValueError(f"these zoos were learnt from splits {', '.join(sorted(map(str, splits)))}; give --split")
    mine = [pair for pair in overrides if pair.startswith("eval.")]
    config = load_recipe(recipe, mine).eval if recipe else eval_of(mine)
    assert isinstance(config, EvalConfig)
    path = Path(out or Path("reports") / "+".join(zoo.name for zoo in opened)[:200])
    refuse_foreign(path)
    check_forms(where.get("plots", ()))
    if where.get("classifier") is not None:
        require_classifier(where["classifier"])
    for zoo in opened if where.get("runs") else ():
        find_run(zoo, where["runs"])  # refuses a run that is not there, or made others
    if source.manifest.origin.task:
        task_of(source.manifest.origin, [pair for pair in overrides if pair not in mine])
    if len({zoo.sha256 for zoo in opened}) < len(opened):
        raise ValueError("the same zoo is given twice; expected different ones")
    source.select(split or str(next(iter(splits), "train")))  # refuses a split that does not exist
    return Reporting(
        originals=source,
        split=split or str(next(iter(splits), "train")),
        zoos=opened,
        baselines=baselines,
        config=config,
        task_overrides=[pair for pair in overrides if pair not in mine],
        path=path,
        **where,
    )


def _split_off_originals(zoos: list[Zoo]) -> tuple[Zoo | None, list[Zoo]]:
    """The zoo that all others were learnt from, if it is among them, and the others."""
    for zoo in zoos:
        others = [other for other in zoos if other is not zoo]
        sources = [other.manifest.origin.source for other in others]
        if others and all(source and source.zoo == zoo.sha256 for source in sources):
            return zoo, others
    return None, zoos


def _source_of(zoo: Zoo) -> Zoo:
    source = zoo.manifest.origin.source
    if source is None:
        raise ValueError(
            f"{zoo.path} does not say what it was learnt from (a zoo of kind {zoo.manifest.origin.kind}); say what to "
            "compare it with: --originals ZOO"
        )
    found = find_source(zoo)
    if found is None:
        raise MissingData(
            f"{zoo.path} was learnt from the zoo {source.name} ({source.zoo[:12]}), which is neither beside it nor "
            "under zoos/; say where it is: --originals ZOO"
        )
    return found


def find_run(zoo: Zoo, named: Sequence[str]) -> Run | None:
    """The run that made a generated zoo: a named one, or one under runs/ if it is there."""
    parents = set(zoo.manifest.origin.parents)
    runs = [load(name) for name in named] or [Run(path.parent) for path in sorted(Path("runs").glob("*/trained.json"))]
    for run in runs:
        if run.sha256 in parents:
            return run
    if named:
        places = ", ".join(str(run.path) for run in runs)
        raise ValueError(f"{zoo.path} was not made by {places}; leave --run out for a report without losses")
    return None


def make_baselines(originals: Zoo, split: str, config: EvalConfig, out: Path, device: str) -> list[Candidate]:
    """What a generator has to beat (CONTRIBUTING, Honesty): closed-form methods, drawn into zoos under `out`. Those
    that need more networks than there are stay away.
    """
    count = len(originals.select(split))
    wanted = [(f"noised_{sigma:g}", "noise", [f"method.sigma={sigma}"], config.n, NOISED) for sigma in config.noise]
    wanted.append(("mean_of_all", "soup", ["method.of=null"], 1, MEAN))
    if config.average_of < count:
        wanted.append(
            (f"average_of_{config.average_of}", "soup", [f"method.of={config.average_of}"], config.n, AVERAGE)
        )
    if count > 1:
        wanted.append(("gaussian", "gaussian", [], config.n, GAUSSIAN))
    found = []
    for name, method, overrides, n, about in wanted:
        place = out / name
        learnt = plan_training(
            originals, method, split=split, out=place / "run", overrides=overrides, device=device
        ).carry_out()
        request = {"n": n, "seed": config.seed}
        made = plan_generation(learnt, request, out=place / "zoo", device=device).carry_out()
        found.append(Candidate(name, made, "baseline", about))
    return found


NOISED = "a training checkpoint plus Gaussian noise, so many standard deviations of each tensor"
MEAN = "the mean of the weights of all training checkpoints, one network"
AVERAGE = "means of that many training checkpoints drawn at random"
GAUSSIAN = "draws from independent Gaussians fitted to every weight over the training checkpoints"


def comparisons_of(
    places: Sequence[str],
    baselines: bool,
    overrides: Sequence[str],
    data_root: Path | None,
    device: str,
    command: tuple[str, ...],
) -> list[Comparison]:
    """The comparisons behind these reports, and of these zoos, those of the same originals together, as one
    (rpg.reports.together); without `baselines` those of reports are left out, too. Raises ValueError for zoos of binary
    tasks, whose reports are task by task.
    """
    found: list[tuple[Path, Comparison]] = []
    zoos: dict[str, list[Zoo]] = {}
    for place in places:
        if (there := _reported(place)) is not None:
            found.append((find(place, "reports"), there if baselines else without_baselines(there)))
        else:
            zoo = Zoo.open(place)
            source = zoo.manifest.origin.source
            zoos.setdefault(source.zoo if source else zoo.sha256, []).append(zoo)
    for group in zoos.values():
        plan = plan_report(
            group, baselines=baselines, overrides=overrides, data_root=data_root, device=device, command=command
        )
        made = plan.carry_out().comparison
        if isinstance(made, TaskComparison):
            raise ValueError(
                f"{group[0].path} is for many binary tasks; `rpg report {group[0].path}` sets them side by side"
            )
        found.append((plan.path, made))
    return together(_named(found))


def _named(reports: Sequence[tuple[Path, Comparison]]) -> list[Named]:
    """Comparisons by the names of their reports' directories; by their places, where two have the same name."""
    names = Counter(path.name for path in {absolute(path) for path, _ in reports})
    return [(absolute(path).name if names[absolute(path).name] == 1 else str(path), made) for path, made in reports]


def _reported(place: str) -> Comparison | None:
    """The report at a place, if there is one. Raises ValueError where a zoo has the same name, of which it is not."""
    report = find(place, "reports")
    if not (report / REPORT).is_file():
        return None
    found = read_comparison(report)
    if (find(place, "zoos") / "manifest.json").is_file():
        if networks([Zoo.open(place).entries]) not in found.inputs.values():
            raise ValueError(
                f"{report} is of other networks than {find(place, 'zoos')}; say which is meant: {report} as it is, or "
                "remove it"
            )
        log.info(f"{report} is read, as it was made")
    return found
