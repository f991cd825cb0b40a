"""Code of the user's own comes in by the user's word alone, and its faults are one line."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

import zoo
from zoo import plugins
from zoo.errors import Failed
from zoo.manifest import versions
from zoo.networks.own import create_own, is_own
from zoo.recipe import load_recipe, task_of
from zoo.structure import Structure
from zoo.tasks import config_class
from zoo.tasks.classification import Config

CPU = torch.device("cpu")
NET = """
from torch import nn

class MyNet(nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.body = nn.Linear(64, width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.body(images.flatten(1)).relu())

class Empty(nn.Module):
    pass

class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        raise KeyError("no luck")

class Tuple(MyNet):
    def forward(self, images):
        return (super().forward(images),)

class Confused(MyNet):
    def forward(self, images):
        return images["left"]

def function():
    raise SystemExit("this must never run")
"""


@pytest.fixture
def net(own_code):
    (own_code / "my_net.py").write_text(NET)
    return own_code


def config(model: str, **options) -> Config:
    return Config(name="classification", model=model, data="digits", options=options)


def test_a_network_by_reference_is_built_with_its_options_from_the_seed(net):
    zoo.let_in("my_net.py")
    task = config("my_net:MyNet", width=3).build(None, CPU)
    one, same, other = (task.weights(task.build(seed)) for seed in (0, 0, 1))
    assert list(one) == ["body.weight", "body.bias", "head.weight", "head.bias"]
    assert one["body.weight"].shape == (3, 64)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["body.weight"], other["body.weight"])
    assert config("my_net:MyNet", width=3).structure() == Structure.of(one)


@pytest.mark.parametrize("reference", ["my_net.py:MyNet", "./my_net.py:MyNet", "elsewhere/my_net.py:MyNet"])
def test_a_reference_by_file_is_the_same_recipe(net, reference):
    assert config(reference) == config("my_net:MyNet")


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("my_net:MyNat", {}, "my_net has no MyNat; did you mean MyNet?"),
        ("my_net:function", {}, "expected a torch.nn.Module class"),
        ("my_net:nn", {}, "expected a torch.nn.Module class"),
        ("my_net:Empty", {}, "has no tensors"),
        ("my_net:Raises", {}, r"KeyError: 'no luck' \(my_net.py, line 19\)"),
        ("my_net:MyNet", {"depth": 2}, r"my_net:MyNet\(depth=2\) failed: TypeError: .*depth"),
        ("my_net:MyNet", {"classes": 7}, r"gives \[1, 7\] for one image; expected logits \[1, 10\]"),
        ("my_net:Tuple", {}, "gives tuple for one image"),
        ("my_net:Confused", {}, "cannot take images of shape"),
        ("other_net:MyNet", {}, "--import other_net.py"),
        ("my_net:MyNet.forward", {}, "no network named"),
    ],
)
def test_what_is_no_network_gets_one_line(net, model, options, words):
    zoo.let_in("my_net.py")
    with pytest.raises(ValueError, match=words) as caught:
        config(model, **options).build(None, CPU).build(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["os:system", "my_net:MyNet", "torch.nn:Linear", "zoo.networks.classifiers:ConvNet"])
def test_a_manifest_names_no_code_even_where_it_is_imported_already(net, model):
    """Only the user's word does: that a module is in memory, or lies in the directory, says nothing."""
    origin = load_recipe("digits").collected(("x",))
    theirs = origin.model_copy(update={"task": {**origin.task, "model": model, "options": {}}})
    with pytest.raises(ValueError, match="which only you can let in"):
        task_of(theirs).build(None, CPU).build(0)
    assert "my_net" not in sys.modules


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\nraise RuntimeError('later')\n", r"RuntimeError: later \(broken.py, line 2\)"),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye"),
        ("def f(:\n", r"SyntaxError.*broken.py, line 1"),
        ("import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
    ],
)
def test_a_file_that_raises_gets_one_line_and_leaves_nothing(own_code, source, words):
    (own_code / "broken.py").write_text(source)
    with pytest.raises(ValueError, match=words) as caught:
        zoo.let_in("broken.py")
    assert "\n" not in str(caught.value)
    assert "broken" not in sys.modules
    assert plugins.code() == ()
    assert str(own_code) not in sys.path


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nowhere.py", "no such file"),
        ("folder/", "no such file"),
        ("nothing_of_that_name", "No module named"),
        ("json.py", "there is another module json"),
        ("datasets.py", "there is another module datasets"),
        ("my-net.py", "is no name for a module"),
    ],
)
def test_what_cannot_be_imported_is_refused(own_code, named, words):
    (own_code / "folder").mkdir()
    for name in ("json.py", "datasets.py", "my-net.py"):
        (own_code / name).write_text("raise SystemExit('this must never run')")
    with pytest.raises(ValueError, match=words):
        zoo.let_in(named)


def test_what_a_file_prints_is_no_result_and_files_beside_it_can_be_imported(own_code, capsys):
    (own_code / "parts_of_mine.py").write_text("WIDTH = 7\n")
    (own_code / "mine_all.py").write_text("import parts_of_mine\nprint('hello')\nWIDTH = parts_of_mine.WIDTH\n")
    zoo.let_in("mine_all.py")
    assert plugins.referred("mine_all:WIDTH", "x") == 7
    assert capsys.readouterr() == ("", "hello\n")


def test_the_record_has_the_hash_of_the_file_and_the_identity_has_not(net):
    before = versions()
    zoo.let_in("my_net.py")
    recipe = load_recipe("digits", ["task.model=my_net:MyNet"])
    first = recipe.collected(("x",))
    assert dict(set(first.versions.items()) - set(before.items())) == {
        "--import my_net.py": first.versions["--import my_net.py"]
    }
    (net / "my_net.py").write_text(NET + "\n# another comment\n")
    zoo.let_in("my_net.py")
    second = recipe.collected(("x",))
    assert first.versions != second.versions
    assert first.fingerprint == second.fingerprint


TASK = """
import zoo
from typing import Literal
from zoo.tasks.classification import Config as Base

class Config(Base):
    name: Literal["mine"]

zoo.register("tasks", "mine", Config)
"""


def test_a_registered_task_is_known_by_its_name_and_missed_with_a_word_on_what_it_needs(own_code, monkeypatch):
    (own_code / "my_task.py").write_text(TASK)
    zoo.let_in("my_task.py")
    (own_code / "mine.yaml").write_text("extends: digits\ntask: {name: mine}\n")
    origin = load_recipe("mine.yaml").collected(("x",))
    assert task_of(origin).build(None, CPU).main_metric == "top1"
    monkeypatch.setattr(plugins, "_registered", {group: {} for group in plugins.NOUNS})
    with pytest.raises(ValueError, match=r"no task named 'mine'.*it was made with --import my_task.py") as caught:
        task_of(origin)
    assert "\n" not in str(caught.value)


def test_a_name_is_registered_once_but_a_cell_may_run_again(own_code):
    zoo.register("networks", "mine", torch.nn.Linear)
    zoo.register("networks", "mine", torch.nn.Linear)
    with pytest.raises(ValueError, match=r"is torch.nn.modules.linear.Linear already"):
        zoo.register("networks", "mine", torch.nn.Conv2d)
    with pytest.raises(ValueError, match="did you mean networks"):
        zoo.register("network", "mine", torch.nn.Linear)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a class"):
        zoo.register("networks", "other", 3)


def test_what_is_registered_is_no_schema(own_code):
    zoo.register("tasks", "linear", torch.nn.Linear)
    with pytest.raises(ValueError, match=r"expected a subclass of zoo.tasks.base.TaskConfig"):
        config_class("linear")


@pytest.fixture
def package(own_code, monkeypatch):
    """A package is installed that offers a network, and is broken in all other ways."""
    (own_code / "offering.py").write_text(NET)
    (own_code / "offering_broken.py").write_text("import not_installed_here\n")
    info = own_code / "offering_net-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering-net\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(
        "[rpg_zoo.networks]\nmine = offering:MyNet\ncnn_digits = offering_broken:x\n"
        "[rpg_zoo.tasks]\nbroken = offering_broken:Config\nlost = offering:Lost\n"
        "[rpg_zoo.methods]\nbroken = offering_broken:Config\n"
    )
    monkeypatch.syspath_prepend(own_code)
    return own_code


def test_a_package_offers_a_network_which_is_loaded_when_it_is_asked_for(package):
    assert "mine" in plugins.names("networks")
    assert config_class("classification") is Config
    assert is_own("mine")
    assert not is_own("cnn_digits")  # ours and timm's go first
    assert "offering" not in sys.modules
    assert create_own("mine", 0, {"width": 2}).state_dict()["body.weight"].shape == (2, 64)
    assert versions()["package offering-net"] == "1.5"


@pytest.mark.parametrize("name", ["broken", "lost"])
def test_a_broken_package_is_named_in_one_line(package, name):
    with pytest.raises(Failed, match=r"^[^\n]*of package offering-net failed: [^\n]*repair or uninstall") as caught:
        config_class(name)
    assert "\n" not in str(caught.value)


def test_a_broken_package_breaks_nothing_else(package, caplog):
    from rpg.methods import METHODS, describe_methods

    assert {row["name"] for row in describe_methods()} == set(METHODS)
    assert [r.message for r in caplog.records if "offering-net" in r.message] != []
    assert load_recipe("digits").task.structure().numel == 1044


def test_two_packages_with_one_name_are_refused(own_code, monkeypatch):
    group = "rpg_zoo.networks"
    both = [EntryPoint("same", f"{name}:Net", group) for name in ("one_of_two", "two_of_two")]
    monkeypatch.setattr(plugins, "entry_points", lambda **_: both)
    with pytest.raises(ValueError, match="one_of_two and two_of_two; uninstall all but one"):
        plugins.find("networks", "same")


def test_code_goes_to_a_worker_as_it_was_read(net):
    import pickle

    zoo.let_in("my_net.py")
    (sent,) = pickle.loads(pickle.dumps(plugins.code()))  # noqa: S301
    (net / "my_net.py").unlink()
    del sys.modules["my_net"]
    plugins.run(sent)
    assert plugins.referred("my_net:MyNet", "x").__module__ == "my_net"


def test_a_registered_names_module_goes_along(own_code, monkeypatch):
    (own_code / "registers_one.py").write_text(NET + "\nimport zoo\nzoo.register('networks', 'one', MyNet)\n")
    monkeypatch.syspath_prepend(own_code)
    import registers_one  # type: ignore[import-not-found]

    assert plugins.code() == (plugins.Code("registers_one"),)
    assert json.dumps(versions())  # with its hash
    assert create_own("one", 0, {}).head.out_features == registers_one.MyNet().head.out_features
