"""Recipes: what is merged, what is refused, and how clearly."""

import pytest

from rpg.methods.rpg.config import GenerateConfig, RPGConfig
from zoo.recipe import keyword_overrides, load_method, load_purpose, load_recipe

SMALL = """
method: {name: rpg}
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
    zoo = recipe.zoo
    assert (zoo.learning_rate, zoo.checkpoints) == (1e-2, 50)
    assert recipe.method == RPGConfig(name="rpg")
    assert (recipe.name, recipe.task.name) == ("mine", "classification")


def test_extends_merges_deeply_and_the_nearer_file_wins(write):
    write(SMALL.replace("rpg}", "rpg, train: {steps: 5, seed: 1}}"), "base")
    recipe = load_recipe(write("extends: base\nmethod: {train: {steps: 7}}\n"), ["method.train.batch_size=3"])
    assert isinstance(recipe.method, RPGConfig)
    train = recipe.method.train
    assert (train.steps, train.seed, train.batch_size) == (7, 1, 3)


def test_a_recipe_without_a_method_can_be_collected_but_not_generate(write):
    recipe = load_recipe(write(SMALL.replace("method: {name: rpg}\n", "")))
    assert (recipe.method, recipe.generate) == (None, None)
    with pytest.raises(ValueError, match="generate needs a method"):
        load_recipe(write(SMALL.replace("method: {name: rpg}", "generate: {n: 3}")))


def test_a_method_takes_the_place_of_the_recipes(write):
    text = SMALL.replace("rpg}", "rpg, train: {steps: 5}}") + "generate: {n: 3}\n"
    recipe = load_recipe(write(text), ["method.train.seed=4"], method="rpg-small")
    assert isinstance(recipe.method, RPGConfig)
    assert (recipe.method.train.steps, recipe.method.train.seed, recipe.method.generator.token_size) == (
        80_000,
        4,
        4096,
    )
    assert recipe.generate is not None
    assert recipe.generate.model_dump()["n"] == 3
    for name, message in (("rpg", "named 'rpg' alone; expected one of rpg-base"), ("x", "'x'; `rpg methods` lists")):
        with pytest.raises(ValueError, match=message):
            load_recipe(write(text), method=name)
    with pytest.raises(ValueError, match=r"no method named 'rpg-smal'; did you mean rpg-small\?"):
        load_recipe(write(text), method="rpg-smal")


def test_keywords_are_overrides_by_the_fields_own_name():
    schemas = {"method": RPGConfig}
    assert keyword_overrides(schemas, {"steps": 5, "ema": None}) == ["method.train.steps=5", "method.train.ema=null"]
    assert keyword_overrides(schemas, {"channels": [1, 4, 1]}) == ["method.generator.channels=[1, 4, 1]"]
    with pytest.raises(ValueError, match=r"there is no setting stps; did you mean steps\?"):
        keyword_overrides(schemas, {"stps": 5})
    twice = {"method": RPGConfig, "generate": GenerateConfig}
    with pytest.raises(ValueError, match=r"steps could be method\.train\.steps or generate\.steps"):
        keyword_overrides(twice, {"steps": 5})
    two_trainings = {"method": load_method("p-diff-small")[0]}  # a seed of one alone would be no new run
    with pytest.raises(ValueError, match=r"seed could be method\.autoencoder\.seed or method\.denoiser\.seed"):
        keyword_overrides(two_trainings, {"seed": 3})
    one = {"method": load_method("p-diff-flat")[0]}
    assert keyword_overrides(one, {"seed": 3}) == ["method.denoiser.seed=3"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zo: {}", ["unknown section 'zo'", "did you mean zoo?"]),
        ("method: {train: {stps: 3}}", ["method.train.stps is not a known key", "did you mean steps?"]),
        ("method: {name: cond-p-diff, autoencoder: {stepz: 3}}", ["method.autoencoder.stepz is not", "mean steps?"]),
        ("method: {steps: 3}", ["method.steps is not a known key; there is method.train.steps"]),
        (
            "method: {transformer: {learning_rate: 3}}",
            ["method.transformer.learning_rate is not", "there is method.train.learning_rate"],
        ),
        ("method: {train: {steps: 3.5}}", ["method.train.steps", "valid integer", "got 3.5"]),
        ("method: {train: {steps: true}}", ["method.train.steps", "valid integer", "got true"]),
        ("method: {train: {steps: 0}}", ["method.train.steps", "greater than 0", "got 0"]),
        ("method: {train: {precision: fp16}}", ["method.train.precision", "'bfloat16' or 'float32'", '"fp16"']),
        ("method: {train: {learning_rate: .nan}}", ["method.train.learning_rate"]),
        ("method: {generator: {kernel_size: 6}}", ["method.generator", "must be odd"]),
        ("method: {generator: {channels: [1, 4, 2]}}", ["method.generator", "read the same backwards"]),
        ("method: 3", ["method must be a mapping"]),
        ("zoo: {regime: independent, seeds: 2, heldout: 0.1}", ["zoo", "heldout 0.1 of 2 seeds"]),
        ("zoo: {seeds: 3}", ["zoo", "regime: independent"]),
        ("task: {validation: 2}", ["task.validation", "less than 1"]),
        ("task: {name: clasification}", ["did you mean classification?"]),
        ("a: [", ["is not YAML"]),
        ("a: 1\na: 2", ["is not YAML", "duplicate key"]),
        ("- a", ["must be a mapping"]),
        ("method: {train: {seed: -1}}", ["method.train.seed", "greater than or equal to 0"]),
        ("method: {train: {seed: 9223372036854775808}}", ["method.train.seed"]),
        ("method: {diffusion: {beta_start: 0.5}}", ["beta_start = 0.5 must not exceed"]),
        ("eval: {noise: []}", ["eval.noise", "at least 1"]),
        ("eval: {noise: [0.1, 0.1]}", ["different levels"]),
        ("method: {train: []}", ["method.train"]),
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


@pytest.mark.parametrize("pair", ["method.generator.channels[0]=3", "rpg..train=3", "zoo.epochs={", "=3", "zoo=3"])
def test_odd_overrides_are_one_line(write, pair):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        load_recipe(write(SMALL), [pair])


def test_extends_takes_the_name_of_a_file(write):
    write(SMALL, "base")
    for name in ("base", "base.yaml", "./base.yaml"):
        assert load_recipe(write(f"extends: {name}\n")).zoo.learning_rate == 1e-2


def test_extends_takes_short_names(write):
    assert load_recipe(write("extends: ade20k\ntask: {crop: 64}\n")).task.crop == 64  # type: ignore[attr-defined]
    method, _ = load_method(str(write("extends: rpg-tiny-binary\nmethod: {train: {steps: 7}}\n")))
    assert method.train.steps == 7
    with pytest.raises(ValueError, match=r"extends 'ade2k', which is neither .* nor the short name.*mean ade20k"):
        load_recipe(write("extends: ade2k\n"))


def test_a_task_alone_says_what_networks_do(write):
    text = "task: {name: classification, model: cnn_digits, data: digits}\n"
    assert load_purpose(write(text)).task == load_recipe("digits", ["task.augment=none"]).task
    assert load_purpose(write(text), ["task.image_size=16"]).task.image_size == 16  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"zoo\.optimizer is required"):
        load_recipe(write(text))
    with pytest.raises(ValueError, match="unknown section 'tusk'"):
        load_purpose(write(text + "tusk: {}\n"))


def test_names_that_no_file_can_have_are_no_recipes(write):
    for source in (write(f"extends: {'x' * 5000}\n"), f"{'x' * 5000}.yaml"):
        with pytest.raises(ValueError, match=r"^[^\n]*(extends 'xxx|no recipe file xxx)[^\n]*$"):
            load_recipe(source)


ABOUT = """
about:
  what: Mine
  command: rpg-zoo collect mine
  parameters: 10
  hardware: a core
  hours: {collect: 1.5, train: 9, source: measured}
  estimate: {hours: 2.5, memory_gb: 1}
  expected: {originals: 98.8, source: measured}
  paper: no row
"""


def test_what_a_recipe_is_about_is_its_own_and_no_part_of_what_is_made(write):
    with_it = load_recipe(write(SMALL + ABOUT, "base"))
    without, heir = load_recipe(write(SMALL, "plain")), load_recipe(write("extends: base\n"))
    assert with_it.about is not None
    assert with_it.about.total_hours == 4.0  # the estimate of training goes before the hours
    assert (without.about, heir.about) == (None, None)
    assert with_it.collected(("test",)).fingerprint == without.collected(("test",)).fingerprint
    for fault, word in (("parameters: 10", "about.parameters"), ("hardware: a core", "about.hardware is required")):
        with pytest.raises(ValueError, match=f"recipe mine: .*{word}"):
            load_recipe(write(SMALL + ABOUT.replace(fault, "parameters: -1" if "par" in fault else "")))
