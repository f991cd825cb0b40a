"""What a sweep found: a row for each point with mean and deviation over seeds, as Markdown, CSV, LaTeX and JSON.

The same numbers give the same bytes: nothing here depends on the day or the machine.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev

from rpg.reproduce.collected import tag
from zoo.files import write_bytes
from zoo.names import short_name
from zoo.structure import Frozen
from zoo.table import Record, Table, markdown_text

RESULT = "sweep.json"


class Trial(Frozen):
    """One run: where it is, and its value, of generated networks the mean score, beside that of the `originals`;
    without a value why it failed, or nothing where it has none on record.
    """

    point: tuple[str, ...]
    seed: int
    run: str
    value: float | None = None
    originals: float | None = None
    error: str | None = None


class SweepResult(Frozen):
    """All trials of a grid. `measure` is the metric of the values, or the training loss where there are no scores, for
    the reason `unscored`.
    """

    recipe: str
    method: str | None
    settings: tuple[str, ...]
    grid: dict[str, tuple[str, ...]]
    seeds: int
    measure: str
    unscored: str | None
    trials: tuple[Trial, ...]

    @property
    def errors(self) -> list[str]:
        """What failed, a line for each trial."""
        return [f"{trial.run}: {trial.error}" for trial in self.trials if trial.error]

    @property
    def name(self) -> str:
        """The last part of its place, which follows from what is swept."""
        method = f"-{short_name(self.method)}" if self.method else ""
        settings = [self.grid, self.seeds, self.settings]
        return f"{short_name(self.recipe)}{method}{tag(settings)}"

    def table(self) -> Table:
        """A row for each point. The deviation is that of the seeds' values (divisor n - 1), nothing for one seed."""
        records: list[Record] = []
        for point in dict.fromkeys(trial.point for trial in self.trials):
            trials = [trial for trial in self.trials if trial.point == point]
            values = [trial.value for trial in trials if trial.value is not None]
            record: Record = dict(zip(self.grid, point, strict=True))
            record |= {"seeds": len(values), self.measure: mean(values) if values else None}
            record["±"] = stdev(values) if len(values) > 1 else None
            if self.unscored is None:
                record["originals"] = next((trial.originals for trial in trials if trial.originals is not None), None)
            if self.errors:
                record["failed"] = sum(trial.error is not None for trial in trials)
            records.append(record)
        return Table.of(records, {self.measure: 4, "±": 4} if self.unscored else {})

    def trials_table(self) -> Table:
        """A row for each run, for programs."""
        return Table.of(
            [
                dict(zip(self.grid, trial.point, strict=True))
                | {"seed": trial.seed, self.measure: trial.value, "originals": trial.originals}
                | {"run": trial.run, "error": trial.error}
                for trial in self.trials
            ]
        )

    def notes(self) -> list[str]:
        """What to know beside the numbers."""
        if self.unscored is None:
            said = [
                "Generated networks on test data: the mean over seeds of their mean score, and the seeds' deviation. "
                "What is chosen by them is to be judged with other seeds, and beside baselines (rpg report)."
            ]
        else:
            said = [
                f"The last training loss on record, as there are no scores: {self.unscored}. Losses of settings that "
                "change the loss itself cannot be compared."
            ]
        if any(trial.value is None and trial.error is None for trial in self.trials):
            said.append("Methods in closed form have no training loss.")
        return [*said, *(f"Failed: {error}" for error in self.errors)]

    def text(self) -> str:
        """The table and what to know, for people."""
        return "\n".join([self.table().text(), "", *self.notes()])

    def write(self, out: Path) -> Path:
        """Write the table into its place below `out`; returns its page. JSON comes last."""
        place, table = out / self.name, self.table()
        page = [f"# Sweep of {markdown_text(self.recipe)}", table.markdown(), *map(markdown_text, self.notes())]
        write_bytes(place / "sweep.md", ("\n\n".join(page) + "\n").encode())
        write_bytes(place / "sweep.csv", self.trials_table().csv().encode())
        write_bytes(place / "sweep.tex", (table.latex() + "\n").encode())
        write_bytes(place / RESULT, (self.to_json(indent=1) + "\n").encode())
        return place / "sweep.md"
