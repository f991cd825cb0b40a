"""Pages of docs/ that a reader follows, followed: tutorials, the notebook, the Python page; and the site itself."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)


def follow(page: str) -> list[str]:
    """Write the files of a page and call its commands, in their order; what the commands print."""
    out = []
    for language, title, text in BLOCK.findall(page):
        if title:
            Path(title).write_text(text)
        elif language == "sh":
            out += [call(command) for command in text.splitlines()]
    return out


@pytest.mark.slow
def test_a_first_zoo(own_code: Path) -> None:
    page = (DOCS / "tutorials/first-zoo.md").read_text(encoding="utf-8")
    shorter = page.replace("epochs=5", "epochs=2").replace("steps=100", "steps=3")
    assert shorter.count("epochs=2") == shorter.count("steps=3") == 1
    out = follow(shorter)
    assert len(out) == 11
    (report,) = re.findall(r"reports/[\w+-]+/report\.html", page)
    assert Path(report).is_file()
    assert "digits-gaussian-generated" in out[-1]
    assert json.loads(Path(report).with_name("report.json").read_text())["groups"]


def test_your_own_method(own_code: Path) -> None:
    out = follow((DOCS / "tutorials/own-method.md").read_text(encoding="utf-8"))
    assert len(out) == 5
    assert "a point on the line between two training networks" in out[0]
    groups = json.loads(Path("reports/digits-between-generated/report.json").read_text())["groups"]
    (made,) = [group for group in groups if group["kind"] == "generated"]
    assert len(made["behaviour"]["accuracy"]) == 5


@pytest.mark.slow
def test_the_notebook(tmp_path: Path) -> None:
    notebook = json.loads((DOCS / "first-steps.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "generated" in done.stdout
    assert (tmp_path / "reports/first-steps/report.html").is_file()


def test_the_examples_of_the_python_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(DOCS / "reference/api.md"), module_relative=False)
    assert found.failed == 0
    assert found.attempted >= 9


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rpg estimate" in (tmp_path / "reference/rpg.html").read_text()
    assert "Raises ValueError" in (tmp_path / "reference/api.html").read_text()
