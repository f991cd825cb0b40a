"""What README.md and docs/ show: commands that exist, links that lead somewhere, pictures that are drawn."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from command_lines import PROGRAMS, problem, shown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_commands_exist_with_these_options(path: Path) -> None:
    wrong = [
        f"{line}: {found}"
        for line, whole in shown(path.read_text(encoding="utf-8"))
        if (found := problem(line, whole)) is not None
    ]
    assert wrong == []


def test_every_command_is_shown_somewhere() -> None:
    lines = [line for path in PAGES for line, _ in shown(path.read_text(encoding="utf-8"))]
    shown_commands = {tuple(line.split()[:2]) for line in lines}
    all_commands = {(program, name) for program, group in PROGRAMS.items() for name in group.commands}
    assert all_commands - shown_commands == set()
    assert len(lines) > 150


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rpg trian digits", "no command trian"),
        ("rpg train digits --step 3", "--step"),
        ("rpg generate", "Missing parameter: run"),
        ("rpg generate digits -n many", "valid integer"),
        ("rpg-zoo collect digitz", "no recipe 'digitz'"),
        ("rpg train digits --set method.train.stepz=3", "stepz"),
        ("rpg train mine --method gaussian --set method.train.steps=3", "mine"),
        ("rpg train --zoo zoos/mine --method gaussian --set method.train.steps=3", "train"),
        ("rpg-zoo verify one two", "extra argument"),
        ("rpg --verson", "no --verson"),
    ],
)
def test_a_page_that_shows_what_is_not_there_is_found(line: str, words: str) -> None:
    assert words in str(problem(line))
    assert list(shown(f"Say\n\n```sh\nls && {line}   # a comment\n```\n")) == [(line, True)]
    assert list(shown(f"Say `{line}`.")) == [(line, False)]


def test_a_sentence_may_hold_the_beginning_of_a_command() -> None:
    assert problem("rpg generate", whole=False) is None
    assert problem("rpg generate --sampel x", whole=False) is not None


def anchors(page: str) -> set[str]:
    """Of headings, as Python-Markdown and GitHub make them of plain words."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = []
    for link in (a or b for a, b in LINK.findall(text)):
        place, _, anchor = link.partition("#")
        target = (path.parent / place) if place else path
        if link.startswith(("https://", "mailto:")):
            continue
        if not target.is_file() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            wrong.append(link)
    assert wrong == []


def test_every_page_is_in_the_navigation() -> None:
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("", lambda *_: None)  # type: ignore[attr-defined]
    listed = re.findall(r"[\w/-]+\.md", json.dumps(yaml.load((ROOT / "mkdocs.yml").read_text(), loader)["nav"]))  # noqa: S506
    generated = {"reference/rpg.md", "reference/rpg-zoo.md"}
    assert sorted(listed) == sorted({path.relative_to(DOCS).as_posix() for path in PAGES[1:]} | generated)


def test_pictures_are_well_formed_and_say_what_they_show() -> None:
    root = ET.parse(DOCS / "images/pipeline.svg").getroot()  # noqa: S314  # our own file
    assert {"title", "desc"} <= {child.tag.rpartition("}")[2] for child in root}
    assert "prefers-color-scheme: dark" in (DOCS / "images/pipeline.svg").read_text()


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert re.search(r"^make demo\b.*\nmake test\b", text, re.MULTILINE)


def test_docstrings_become_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(str(DOCS))
    import hooks

    text = "At zoos/<recipe>, or `runs/<x>`.\n\n>>> open(\n...     1)\nZoo('a')\n\nThen."
    wanted = "At zoos/&lt;recipe>, or `runs/<x>`.\n\n```pycon\n>>> open(\n...     1)\nZoo('a')\n```\n\nThen."
    assert hooks.markdown(text).replace("\n\n\n", "\n\n") == wanted
    for program, group in PROGRAMS.items():
        app = __import__(f"{'zoo' if program == 'rpg-zoo' else 'rpg'}.cli", fromlist=["app"]).app
        made = hooks.page(program, app)
        headings = [line.split()[1] for line in re.findall(r"^### `(.*)`$", made, re.MULTILINE)]
        assert sorted(headings) == sorted(group.commands)
        for name, command in group.commands.items():
            (part,) = re.findall(rf"^### `{program} {name}`$(.*?)(?=^##|\Z)", made, re.MULTILINE | re.DOTALL)
            assert all(
                option in part
                for parameter in command.params
                for option in parameter.opts[:1]
                if option.startswith("-")
            )
