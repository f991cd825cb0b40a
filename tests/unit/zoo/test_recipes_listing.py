"""`rpg-zoo recipes` as a table."""

from __future__ import annotations

from zoo.listing import recipes_found, recipes_table


def test_a_recipe_says_what_it_takes_and_should_score() -> None:
    found = recipes_found()
    table = recipes_table(found)
    row = dict(zip(table.columns, table.rows[list(found).index("digits")], strict=True))
    assert (row["network"], row["parameters"], row["checkpoints"]) == ("cnn_digits", 1010, 50)
    assert (row["metric"], row["originals"]) == ("top-1", found["digits"]["about"]["expected"]["originals"])
    hours = found["digits"]["about"]["hours"]
    assert row["hours"] == hours["collect"] + hours["train"]
    assert len(table.rows) == len(found) == len({cells[0] for cells in table.rows})
    seeds = found["cifar10-cnn-medium-seeds"]
    assert seeds["checkpoints"] == 36  # 3 of each of 12 seeds, those held out included
