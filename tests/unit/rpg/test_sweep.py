"""`rpg estimate --sweep`: what is swept, what comes out, and what is refused."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from rpg.api import plan_estimate, plan_sweep
from rpg.devices import DEVICES
from rpg.sweep import DIGITS, check_plot, draw, parse_sweep
from zoo.table import Table


@pytest.mark.parametrize(
    ("text", "keys", "values"),
    [
        ("a.b=1,2,5", ("a.b",), (1, 2, 5)),
        ("a=1024,...,16384", ("a",), (1024, 2048, 4096, 8192, 16384)),
        ("a,b=3,...,12,50", ("a", "b"), (3, 6, 12, 50)),
        ("a=4,...,8", ("a",), (4, 8)),
    ],
)
def test_what_is_swept(text: str, keys: tuple[str, ...], values: tuple[int, ...]) -> None:
    assert parse_sweep(text) == (keys, values)


@pytest.mark.parametrize(
    "text", ["a", "a=", "=3", "a=x", "a=0", "a=-1", "a=...,4", "a=4,...", "a=4,...,9", "a=8,...,4"]
)
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--sweep"):
        parse_sweep(text)


@pytest.mark.parametrize(
    ("plot", "sweep", "said"),
    [
        ("new.svg", None, "draws a sweep; give one"),
        ("new.png", "parameters=1,2", r"suffix \.svg"),
        ("there.svg", "parameters=1,2", "is there already"),
    ],
)
def test_a_plot_wants_a_sweep_and_a_new_svg(tmp_path: Path, plot: str, sweep: str | None, said: str) -> None:
    (tmp_path / "there.svg").touch()
    with pytest.raises(ValueError, match=said):
        check_plot(tmp_path / plot, sweep)
    check_plot(None, sweep)


def test_what_small_networks_take_is_not_shown_as_nothing() -> None:
    _, rows = plan_sweep("rpg-tiny", None, [], DEVICES["h100"], 1010, "method.generator.token_size=32,64")
    shown = Table.of(rows, DIGITS).cells()
    assert all(float(cell) > 0 for row in shown for cell in row)


def test_memory_grows_with_tokens_of_more_values(tmp_path: Path) -> None:
    """Figure 7: the larger the tokens, and the width with them, the more memory; Figure 8: hardly with the network."""
    both = "method.generator.token_size,method.generator.d_model=1024,...,8192"
    keys, rows = plan_sweep("rpg-base", None, [], DEVICES["h100"], 5_717_416, both)
    assert [row["value"] for row in rows] == [1024, 2048, 4096, 8192]
    needed = [float(str(row["recomputing GB"])) for row in rows]
    assert needed == sorted(needed)
    assert needed[-1] > 4 * needed[0]
    _, one = plan_estimate("rpg-base", None, [], "h100", 5_717_416)
    assert rows[-1]["keeping GB"] == pytest.approx(one.figures["training"]["bytes_keeping"] / 1e9)
    draw(tmp_path / "figure7.svg", keys, rows, DEVICES["h100"].memory)
    text = (tmp_path / "figure7.svg").read_text()
    ElementTree.fromstring(text)  # noqa: S314  # our own
    assert "token_size" in text

    _, rows = plan_sweep("rpg-base", None, [], DEVICES["h100"], None, "parameters=1000000,50000000")
    small, large = (float(str(row["recomputing GB"])) for row in rows)
    assert small < large < 2 * small


def test_a_method_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="trains nothing"):
        plan_sweep("gaussian", None, [], DEVICES["h100"], None, "parameters=1000")
