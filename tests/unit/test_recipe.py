"""Recipes: what is merged, what is refused, and how clearly."""

import pytest

from rpg.config import RPGConfig
from zoo.collect import CollectConfig
from zoo.recipe import load_recipe, recipe_from_text, recipe_names

SMALL = """
task: {name: classification, model: cnn_digits, data: digits}
zoo: {optimizer: sgd, learning_rate: 1e-2, batch_size: 10, epochs: 1, save_learning_rate: 1e-5}
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_scientific_notation_is_a_number_and_defaults_are_filled(write):
    recipe = load_recipe(write(SMALL))
    zoo = recipe.section("zoo", CollectConfig)
    assert (zoo.learning_rate, zoo.checkpoints) == (1e-2, 50)
    assert recipe.section("rpg", RPGConfig) == RPGConfig()
    assert (recipe.name, recipe.task.name) == ("mine", "classification")


def test_extends_merges_deeply_and_the_nearer_file_wins(write):
    write(SMALL + "rpg: {train: {steps: 5, seed: 1}}\n", "base")
    recipe = load_recipe(write("extends: base\nrpg: {train: {steps: 7}}\n"), ["rpg.train.batch_size=3"])
    train = recipe.section("rpg", RPGConfig).train
    assert (train.steps, train.seed, train.batch_size) == (7, 1, 3)


def test_a_resolved_recipe_reads_back_as_itself(write):
    recipe = load_recipe("cifar10-cnn-medium", ["rpg.train.steps=9"])
    assert "extends" not in recipe.text
    again = recipe_from_text(recipe.name, recipe.text)
    assert (again.sha256, again.sections) == (recipe.sha256, recipe.sections)


def test_the_hash_is_of_the_content_not_of_the_writing(write):
    a = load_recipe(write(SMALL, "a"))
    b = load_recipe(write("# comment\n" + SMALL + "rpg: {train: {seed: 0}}\n", "b"))
    assert a.sha256 == b.sha256
    assert load_recipe(write(SMALL, "a"), ["rpg.train.seed=1"]).sha256 != a.sha256


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_every_recipe_survives_its_manifest(name):
    recipe = load_recipe(name)
    assert recipe_from_text(name, recipe.text).sha256 == recipe.sha256


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zo: {}", ["unknown section 'zo'", "did you mean zoo?"]),
        ("rpg: {train: {stps: 3}}", ["rpg.train.stps is not a known key", "did you mean steps?"]),
        ("rpg: {train: {steps: 3.5}}", ["rpg.train.steps", "valid integer", "got 3.5"]),
        ("rpg: {train: {steps: true}}", ["rpg.train.steps", "valid integer", "got true"]),
        ("rpg: {train: {steps: 0}}", ["rpg.train.steps", "greater than 0", "got 0"]),
        ("rpg: {train: {precision: fp16}}", ["rpg.train.precision", "'bfloat16' or 'float32'", '"fp16"']),
        ("rpg: {train: {learning_rate: .nan}}", ["rpg.train.learning_rate"]),
        ("rpg: {generator: {kernel_size: 6}}", ["rpg.generator", "must be odd"]),
        ("rpg: {generator: {channels: [1, 4, 2]}}", ["rpg.generator", "read the same backwards"]),
        ("rpg: 3", ["rpg must be a mapping"]),
        ("zoo: {regime: independent, seeds: 2, heldout: 0.1}", ["zoo", "heldout 0.1 of 2 seeds"]),
        ("zoo: {seeds: 3}", ["zoo", "regime: independent"]),
        ("task: {validation: 2}", ["task.validation", "less than 1"]),
        ("task: {name: clasification}", ["did you mean classification?"]),
        ("a: [", ["is not YAML"]),
        ("a: 1\na: 2", ["is not YAML", "duplicate key"]),
        ("- a", ["must be a mapping"]),
        ("rpg: {train: {seed: -1}}", ["rpg.train.seed", "greater than or equal to 0"]),
        ("rpg: {train: {seed: 9223372036854775808}}", ["rpg.train.seed"]),
        ("rpg: {diffusion: {beta_start: 0.5}}", ["beta_start = 0.5 must not exceed"]),
        ("eval: {noise: []}", ["eval.noise", "at least 1"]),
        ("eval: {noise: [0.1, 0.1]}", ["different levels"]),
        ("rpg: {train: []}", ["rpg.train"]),
        ("zoo: []", ["does not fit onto"]),
        ("extends: nothing", ["extends 'nothing'"]),
    ],
)
def test_mistakes_are_one_line_that_names_the_place(write, text, words):
    write(SMALL, "base")
    text = text if text.startswith(("extends", "-", "a")) else f"extends: base\n{text}"
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_recipe(write(text))
    for word in words:
        assert word in str(error.value)


def test_a_missing_field_is_named(write):
    with pytest.raises(ValueError, match=r"zoo\.optimizer is required"):
        load_recipe(write("task: {name: classification, model: cnn_digits, data: digits}"))


def test_a_recipe_that_extends_itself_is_refused(write):
    write("extends: b", "a")
    with pytest.raises(ValueError, match="extends itself"):
        load_recipe(write("extends: a", "b"))


def test_interpolations_do_not_read_the_environment(write, monkeypatch):
    monkeypatch.setenv("SECRET", "cnn_digits")
    with pytest.raises(ValueError, match=r"\$\{oc\.env:SECRET\}"):
        load_recipe(write(SMALL.replace("digits}", "'${oc.env:SECRET}'}")))


@pytest.mark.parametrize("text", ["", "3", "# nothing", "zoo: {}"])
def test_a_recipe_without_a_task_says_so(write, text):
    with pytest.raises(ValueError, match=r"task\.name is required|is not YAML"):
        load_recipe(write(text))


@pytest.mark.parametrize("pair", ["rpg.generator.channels[0]=3", "rpg..train=3", "zoo.epochs={", "=3", "zoo=3"])
def test_odd_overrides_are_one_line(write, pair):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        load_recipe(write(SMALL), [pair])
