"""A report as files: JSON and CSV for programs, Markdown for terminals and repositories, one HTML page for people, and
its plots. What it says is a Page; who writes one is rpg.reports.report or rpg.reports.task_report.

The HTML is self-contained: no request, plots inlined from their files, and a few lines of script that sort tables and
save them as CSV, which reading needs not. The same input gives the same bytes.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rpg.reports.inputs import REPORT, Inputs, claim
from rpg.reports.plots import FORMS, NAMES, Mark, Plot, check_forms, inline, render
from zoo import cuda
from zoo.files import unwritable_is_failed, write_bytes
from zoo.manifest import versions
from zoo.structure import Frozen
from zoo.table import Table, markdown_text

if TYPE_CHECKING:
    from jinja2 import Environment

HTML = "report.html"


@dataclass(frozen=True)
class Section:
    """A titled part: terms with what is said of them, paragraphs, tables, plots with captions, in this order."""

    title: str
    terms: Sequence[tuple[str, str]] = ()
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[tuple[Plot, str]] = ()


@dataclass(frozen=True)
class Page:
    """What a report says. `about` is what it compares, `headlines` the answer, `notes` what to know beside it. Rows of
    tables whose first cell is in `marks` get its colour, those in `strong` stand out; `explained` says what a column's
    title means. `links` are places relative to the page, by what they are.
    """

    title: str
    about: str
    headlines: Sequence[str]
    sections: Sequence[Section]
    provenance: Mapping[str, str]
    marks: Mapping[str, Mark] = field(default_factory=dict)
    strong: frozenset[str] = frozenset()
    explained: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_page(page: Page, record: Frozen, inputs: Inputs, numbers: Table, out: Path, plots: Sequence[str]) -> Path:
    """Write the report into `out`; the path of its HTML page. `record` becomes `report.json`, `numbers` `report.csv`;
    plots are written as SVG and in the formats `plots`.

    Raises ValueError for an unknown format, and when `out` holds the report of other `inputs`
    (rpg.reports.inputs.claim).
    """
    check_forms(plots)
    claim(out, inputs)
    drawn: dict[str, str] = {}
    written = set()
    for plot, _ in (pair for section in page.sections for pair in section.plots):
        for form in dict.fromkeys(("svg", *plots)):
            path = out / "plots" / f"{plot.name}.{form}"
            write_bytes(path, render(plot, form))
            written.add(path)
        drawn[plot.name] = inline((out / "plots" / f"{plot.name}.svg").read_bytes())
    for path in {out / "plots" / f"{name}.{form}" for name in NAMES for form in FORMS} - written:
        with unwritable_is_failed(path):  # of the same report as it was written before
            path.unlink(missing_ok=True)
    write_bytes(out / "report.csv", numbers.csv().encode())
    write_bytes(out / "report.md", _markdown(page).encode())
    write_bytes(out / HTML, _html(page, drawn).encode())
    write_bytes(out / REPORT, (record.to_json(indent=1) + "\n").encode())
    return out / HTML


def links_to(zoos: Mapping[str, Path], out: Path) -> dict[str, str]:
    """Where the manifests of zoos are, seen from a page in `out`: of those that lie with it in the working directory,
    so that no page names a place of this machine.
    """
    here = Path.cwd()
    places = {name: path.resolve() / "manifest.json" for name, path in zoos.items()}
    if not out.resolve().is_relative_to(here):
        return {}
    return {
        name: Path(os.path.relpath(path, out.resolve())).as_posix()
        for name, path in places.items()
        if path.is_relative_to(here) and path.is_file()
    }


def provenance_of(command: Sequence[str]) -> dict[str, str]:
    """How and where this process makes a report."""
    return {
        "command": shlex.join(command),
        "commit": _commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "hardware": ", ".join([f"{os.cpu_count()} CPUs", platform.machine(), *cuda.names()]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _commit() -> str:
    """The commit of this checkout, with `-dirty` where it was changed; an installed package has none."""
    root = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return "not a git checkout"
    describe = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(describe, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "no commit yet"


def _markdown(page: Page) -> str:
    parts = [f"# {markdown_text(page.title)}: {page.about}", *map(markdown_text, [*page.headlines, *page.notes])]
    for section in page.sections:
        parts.append(f"## {markdown_text(section.title)}")
        if section.terms:
            parts.append("\n".join(f"- **{markdown_text(a)}.** {markdown_text(b)}" for a, b in section.terms))
        parts += map(markdown_text, section.text)
        parts += [table.markdown() for table in section.tables]
    parts += ["## Provenance", "\n".join(f"- {name}: {_code(value)}" for name, value in page.provenance.items())]
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    """A code span, which may hold backticks itself."""
    fence = "``" if "`" in text else "`"
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def environment(*packages: str) -> Environment:
    """Templates of these packages, then those of reports, whose macros and style all pages share."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "rpg.reports")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _html(page: Page, drawn: Mapping[str, str]) -> str:
    """The HTML page; `drawn` are the plots by name, as SVG."""
    from markupsafe import Markup

    plots = {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704  # our own, their texts escaped
    links = {"all numbers (JSON)": REPORT, "the tables (CSV)": "report.csv", "as text (Markdown)": "report.md"}
    return environment().get_template(HTML).render(page=page, plots=plots, links=links | dict(page.links))
