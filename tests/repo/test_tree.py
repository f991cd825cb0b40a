"""The README's annotated tree is the tree that exists; files stay small; nothing depends on one machine's paths.

The tree is the first fenced block of README.md that contains `evaluators/`. A line is a name, two or more spaces, and
what it is for. Names of directories end with `/`; what is deeper indented than a directory lies in it:

    evaluators/            models in, metrics out
      metrics.py           a number with n and standard error
    tests/                 unit, integration, numerics, repo

Every Python file of the packages has its line, except `__init__.py`: the directory's line speaks for it. Other files
and directories may have one; what has one must exist.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("evaluators", "zoo", "rpg")
MAX_LINES = 450
LINE = re.compile(r"(?P<indent> *)(?P<name>\S+)(?: {2,}(?P<purpose>\S.*))?")
# An absolute path into somebody's home or workspace; not the middle of an address or of a longer path.
MACHINE_PATH = re.compile(r"(?<![\w.:/~<>-])/(?:work|root|home|Users)/\w")


def find_tree(readme: str) -> str:
    """The fenced block that holds the tree. Raises ValueError if there is none."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    for block in blocks:
        if "evaluators/" in block:
            return block
    raise ValueError("README.md has no fenced block with a tree that contains evaluators/")


def parse_tree(block: str) -> dict[str, str]:
    """Purpose by path. Raises ValueError for a line without a purpose or one that lies in a file."""
    entries: dict[str, str] = {}
    open_directories: list[tuple[int, str]] = [(-1, "")]
    for line in filter(str.strip, block.splitlines()):
        match = LINE.fullmatch(line.rstrip())
        if match is None or match["purpose"] is None:
            raise ValueError(f"expected `name  purpose`, two spaces between them, in the tree's line {line!r}")
        indent = len(match["indent"])
        while open_directories[-1][0] >= indent:
            open_directories.pop()
        parent = open_directories[-1][1]
        if parent and not parent.endswith("/"):
            raise ValueError(f"{line.strip()!r} is indented under the file {parent}")
        path = parent + match["name"]
        entries[path] = match["purpose"]
        open_directories.append((indent, path))
    return entries


def compare_tree(entries: dict[str, str], root: Path) -> list[str]:
    """Python files without a line, and lines without a file."""
    files = {path.relative_to(root).as_posix() for package in PACKAGES for path in (root / package).rglob("*.py")}
    files = {path for path in files if not path.endswith("__init__.py")}
    missing = [f"{path} is not in the tree" for path in sorted(files - entries.keys())]
    stale = [
        f"{path} does not exist"
        for path in entries
        if not ((root / path).is_dir() if path.endswith("/") else (root / path).is_file())
    ]
    return missing + stale


def project_files() -> list[Path]:
    """Files that git has or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_readme_tree_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert compare_tree(parse_tree(find_tree(readme)), ROOT) == []


README = """
```
make demo
```
```text
evaluators/      scores
  metrics.py     numbers
zoo/             checkpoints
  tasks/         tasks
    base.py      the protocol
  store.py       zoos
Makefile         commands
```
"""


def test_a_tree_is_read() -> None:
    assert parse_tree(find_tree(README)) == {
        "evaluators/": "scores",
        "evaluators/metrics.py": "numbers",
        "zoo/": "checkpoints",
        "zoo/tasks/": "tasks",
        "zoo/tasks/base.py": "the protocol",
        "zoo/store.py": "zoos",
        "Makefile": "commands",
    }


def test_a_tree_that_lies_is_found(tmp_path: Path) -> None:
    for name in ("evaluators/__init__.py", "evaluators/metrics.py", "zoo/tasks/base.py", "zoo/hub.py", "Makefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert compare_tree(parse_tree(find_tree(README)), tmp_path) == [
        "zoo/hub.py is not in the tree",
        "zoo/store.py does not exist",
    ]


@pytest.mark.parametrize("block", ["evaluators/\n", "evaluators/ scores\n", "a.py  one\n  b.py  two\n"])
def test_a_malformed_tree_is_refused(block: str) -> None:
    with pytest.raises(ValueError, match=r"purpose|under the file"):
        parse_tree(block)


def test_a_readme_without_a_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="no fenced block"):
        find_tree("evaluators/ outside of any block\n```\nmake demo\n```\n")


def test_files_are_small() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    for path in project_files():
        content = path.read_bytes()
        if b"\0" not in content:
            lines = enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1)
            found += [f"{path.relative_to(ROOT)}:{number}" for number, line in lines if MACHINE_PATH.search(line)]
    assert found == []


@pytest.mark.parametrize("place", ["work", "root", "home", "Users"])
def test_a_path_of_one_machine_is_found(place: str) -> None:
    assert MACHINE_PATH.search(f'DATA = "/{place}/me/data"')
    assert not MACHINE_PATH.search(f"https://example.org/{place}/me and ./{place}/me and a/{place}/b")
