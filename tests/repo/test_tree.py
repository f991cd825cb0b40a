"""docs/rooms.md has a paragraph for every room, and for none that does not exist; files stay small; nothing depends on
one machine's paths.

A room is a directory with Python files of its own. Its paragraph is an item of that page's list that begins with the
directory's name: - **`zoo/tasks/`**: what networks do.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("evaluators", "zoo", "rpg")
MAX_LINES = 450
ROOM = re.compile(r"^- \*\*`(?P<name>[\w/]+/)`\*\*: \S", re.MULTILINE)
# An absolute path into somebody's home or workspace; not the middle of an address or of a longer path.
MACHINE_PATH = re.compile(r"(?<![\w.:/~<>-])/(?:work|root|home|Users)/\w")


def rooms(root: Path) -> set[str]:
    """The directories of the packages that hold more Python than what makes them packages."""
    files = {path for package in PACKAGES for path in (root / package).rglob("*.py") if path.name != "__init__.py"}
    return {f"{path.parent.relative_to(root).as_posix()}/" for path in files}


def compare_rooms(page: str, root: Path) -> list[str]:
    """Rooms without a paragraph, and paragraphs without a directory."""
    named = ROOM.findall(page)
    missing = [f"{name} has no paragraph" for name in sorted(rooms(root) - set(named))]
    stale = [f"{name} does not exist" for name in named if not (root / name).is_dir()]
    return missing + stale + [f"{name} has two paragraphs" for name in sorted(set(named)) if named.count(name) > 1]


def project_files() -> list[Path]:
    """Files that git has or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_room_has_a_paragraph() -> None:
    assert compare_rooms((ROOT / "docs/rooms.md").read_text(encoding="utf-8"), ROOT) == []


def test_a_page_that_lies_is_found(tmp_path: Path) -> None:
    for name in ("evaluators/__init__.py", "evaluators/metrics.py", "zoo/tasks/base.py", "rpg/run.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    page = "- **`evaluators/`**: scores\n- **`zoo/hub/`**: the Hub\n- **`rpg/`**: runs\n- **`rpg/`**: again\n"
    assert compare_rooms(page, tmp_path) == [
        "zoo/tasks/ has no paragraph",
        "zoo/hub/ does not exist",
        "rpg/ has two paragraphs",
    ]


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
