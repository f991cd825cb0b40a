"""The paper as data: every cell of every table says something that can be done."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rpg.methods import METHODS
from rpg.reproduce.collected import Collected, recipe_of
from rpg.reproduce.measures import Cell
from rpg.reproduce.paper import NOT_RUN, PaperTable, Small, Spec, load_table, read_table
from rpg.reproduce.plan import plan_table
from rpg.reproduce.steps import Drawn, Reported, Step, Trained
from zoo.names import method_names, recipe_names, table_names
from zoo.recipe import validate

NAMES = (
    *(f"table{k}" for k in (*range(1, 11), 13, 14, 15, 16)),
    *(f"figure{k}" for k in (2, 4, 6, 7, 8, 9, 10)),
)
# Methods that Table 8 names; settings of others would be a typing error.
OTHERS = ("hyper-representations", "p-diff", "d2nwg", "sane")
BOTH = [(name, small) for name in NAMES for small in (False, True)]


def small_or_full(name: str, small: bool) -> PaperTable:
    table = load_table(name)
    if small and not isinstance(table.small, Small):
        pytest.skip(f"no small version: {table.small}")
    return table


def test_all_tables_and_figures_are_there_in_the_papers_order() -> None:
    assert tuple(table_names()) == NAMES
    assert not set(table_names()) & set(recipe_names())


@pytest.mark.parametrize(("name", "small"), BOTH)
def test_every_cell_can_be_done(name: str, small: bool) -> None:
    table = small_or_full(name, small)
    for where, spec in table.cells(small).items():
        cell = Cell(spec)
        if cell.missing:
            assert spec.method in {*OTHERS, *(f"{other}-small" for other in OTHERS)}, where
            assert str(spec.method).removesuffix("-small") not in METHODS, f"its settings {spec.method} are missing"
            continue
        if spec.recipe is None:
            assert (spec.show, spec.values is None) == ("estimated memory", False), where
            continue
        recipe = recipe_of(spec.recipe, spec.set, spec.method)  # refuses unknown names, keys and values
        assert all(pair.startswith(("task.", "zoo.", "method.")) for pair in spec.set), where
        drawn = [step for step in cell.steps(True) if isinstance(step, Drawn | Reported)]
        if drawn:
            method = recipe.method
            assert method is not None
            validate(method.draw_config, spec.generate, f"{name} {where}: generate")  # type: ignore[attr-defined]
            assert bool(spec.tasks) == (recipe.task.name == "binary"), where
        if spec.condition is not None and spec.tasks != "all":
            assert spec.condition in spec.tasks, where
        if spec.show in ("noised", "decline of noise", "sensitivity"):
            assert spec.sigma, where
        if spec.show == "swapped":
            assert spec.share, where
            assert spec.between, where


@pytest.mark.parametrize(("name", "small"), BOTH)
def test_a_plan_names_its_steps_apart(name: str, small: bool) -> None:
    small_or_full(name, small)
    steps = plan_table(name, small).steps
    places = [step.place for step in steps]
    assert len(set(places)) == len(places)
    seen: set[Step] = set()
    for step in steps:
        assert set(step.needs()) <= seen, "what is needed comes before"
        seen.add(step)


def test_tables_share_what_they_make() -> None:
    steps = {name: set(plan_table(name, small=True).steps) for name in ("table1", "table9", "table14", "table16")}
    assert steps["table9"] <= steps["table14"]
    assert Collected("digits-seeds") in plan_table("table15", small=True).steps, "10 seeds are the recipe's own"
    assert len([step for step in steps["table1"] & steps["table16"] if isinstance(step, Trained)]) == 3


# What the paper prints, from its text: a table that was copied wrongly would not add up to the numbers given there.
def test_printed_values_agree_with_what_the_paper_says_of_them() -> None:
    table14 = load_table("table14")
    rows = [row for row in table14.rows if row != "all 1,022 tasks"]
    assert len(rows) == 20

    def mean(column: str) -> float:
        return sum(float(str(table14.print_of(row, column))) for row in rows) / len(rows)

    about = recipe_of("binary-cifar10", ()).about
    assert about
    expected = [f"{mean(column):.1f}" for column in ("original", "best acc.", "average acc.")]
    assert about.paper == f"Table 14: original {expected[0]}, RPG best {expected[1]}, average {expected[2]}"
    table9 = load_table("table9")
    for row in table9.rows:
        assert table9.print_of(row, "original") == table14.print_of(row, "original")
        assert table9.print_of(row, "ours") == table14.print_of(row, "best acc.")
    table1, table8, table16 = map(load_table, ("table1", "table8", "table16"))
    for model in ("ConvNeXt-A", "ResNet-18", "ViT-Base"):
        assert table16.print_of(model, "params. (M)") == table1.print_of("params. (M)", model)
    for method, expected in (("D2NWG", [38.2, "–", 82.2, "–", "OOM"]), ("SANE", ["–", 57.9, "–", 68.6, "OOM"])):
        rows = [
            table8.printed[row] for row in table8.rows if row in (method, f"{method} in pieces", f"{method}, larger")
        ]
        assert [next((value for value in cell if value != "–"), "–") for cell in zip(*rows, strict=True)] == expected


def test_the_papers_numbers_of_parameters_are_those_of_the_recipes() -> None:
    for name in ("table1", "table6", "table16"):  # Table 8 counts heads for ImageNet's classes
        table = load_table(name)
        for (row, column), spec in table.cells(small=False).items():
            if spec.show == "parameters":
                about = recipe_of(str(spec.recipe), ()).about
                assert about
                printed = table.print_of(row, column)
                assert math.isclose(about.parameters / 1e6, float(str(printed)), abs_tol=0.06), (name, row, column)


def test_what_is_said_later_goes_before() -> None:
    base = Spec(recipe="digits", set=("a=1",), generate={"n": 3, "steps": 5}, statistic="mean")
    both = base.under(Spec(show="generated", set=("b=2",), generate={"n": 4})).under(Spec(statistic="best"))
    assert (both.recipe, both.show, both.statistic) == ("digits", "generated", "best")
    assert (both.set, both.generate) == (("a=1", "b=2"), {"n": 4, "steps": 5})


GOOD = """
title: A
section: "1"
unit: "%"
columns: {one: {show: original}, two: {show: generated}}
rows: {first: {recipe: digits}}
printed: {first: [1.0, "–"]}
differs: nothing
small: nothing small
"""


def test_faulty_tables_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    table = read_table(path)
    assert [table.print_of("first", column) for column in ("one", "two")] == [1.0, "–"]
    assert "–" in NOT_RUN
    for old, new, message in (
        ('[1.0, "–"]', "[1.0]", "has 1 values for 2 columns"),
        ("printed: {first", "printed: {frist", "did you mean first"),
        ("show: original", "show: orignal", "table mine: columns.one.show"),
        ("{show: original}", "{}", "does not say what it shows"),
        ("differs: nothing\n", "", "differs is required"),
        ("small: nothing small", "small: {rows: {x: {}}, differs: x}", "small has a row 'x'"),
        ("differs: nothing", "plots: [lines]\ndiffers: nothing", "'first' is none"),
        ("title: A", "title: [", "is not YAML"),
        ("{show: generated}", "{show: generated, statistic: best 3, condition: '101'}", "best 3 is not known of one"),
    ):
        path.write_text(GOOD.replace(old, new))
        with pytest.raises(ValueError, match=message) as caught:
            read_table(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="did you mean table1"):
        load_table("tabel1")
    with pytest.raises(ValueError, match="no row 'ours'"):
        plan_table("table1", rows=["ours"])
    path.write_text(GOOD)
    with pytest.raises(ValueError, match="'A' has no small version: nothing small"):
        read_table(path).cells(small=True)


def test_every_table_has_a_small_version() -> None:
    assert {name for name in NAMES if not isinstance(load_table(name).small, Small)} == set()


def test_tables_2_and_3_in_small_have_networks_of_the_same_families() -> None:
    for name in ("table2", "table3"):
        table = load_table(name)
        full, small = ({w: Cell(spec) for w, spec in table.cells(small).items()} for small in (False, True))
        for where, cell in small.items():
            one, other = (recipe_of(str(c.spec.recipe), ()) for c in (full[where], cell))
            assert one.task.name == other.task.name
            assert (cell.spec.show, cell.spec.metric) == (full[where].spec.show, full[where].spec.metric)
            assert [type(step) for step in cell.steps(False)] == [type(step) for step in full[where].steps(False)]


def test_a_method_that_does_not_exist_is_not_available_and_nothing_else() -> None:
    plan = plan_table("table8", small=True)
    for (row, column), cell in plan.cells.items():
        printed = load_table("table8").print_of(row, column)
        expected = "not run" if printed in NOT_RUN else ""
        if not expected and cell.spec.method and cell.spec.method not in method_names():
            expected = "not available"
        assert plan.state(row, column) == expected
    assert plan.state("SANE", "CNN (s)") == "not run"
    assert plan.state("ours", "CNN (s)") == ""
