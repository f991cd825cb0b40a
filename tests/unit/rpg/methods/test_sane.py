"""SANE, through the Python API: windows, behaviour, densities, selections against sorting by hand, resuming."""

from __future__ import annotations

from itertools import combinations, islice
from typing import Any

import pytest
import torch
from tokenised import TASK, digits_networks, digits_task, digits_zoo
from torch import nn

import rpg.api
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.contrastive import nt_xent
from rpg.methods.sane.method import SANE, Config, GenerateConfig
from rpg.methods.sane.model import Autoencoder, Model
from rpg.methods.task_data import Behaviour, condition_batchnorm, task_with_data
from rpg.methods.vectors import Vectors, reconstructed
from rpg.run import Run
from rpg.tokens.layers import Layers
from zoo.errors import MissingData
from zoo.manifest import Origin
from zoo.recipe import load_method
from zoo.store import Zoo
from zoo.structure import Structure, TensorSpec
from zoo.tasks import classification

MODEL: dict[str, Any] = {
    "token_size": 40,
    "width": 24,
    "layers": 1,
    "heads": 2,
    "latent": 8,
    "window": 32,
    "halo": 4,
}
TRAINING: dict[str, Any] = {"steps": 80, "batch_size": 6, "learning_rate": 1e-2, "save_every": 10}
CPU = torch.device("cpu")


def config(**settings: Any) -> Config:
    return Config.model_validate(
        {"name": "sane", "model": MODEL, "autoencoder": TRAINING, "contrast": 0.02, **settings}
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return digits_zoo(tmp_path_factory.mktemp("sane") / "zoo")


@pytest.fixture(scope="module")
def trained(zoo) -> tuple[Zoo, Run]:
    return zoo, train(config(permutations=False, best=0.5), zoo, zoo.path.parent / "run")


def asked(**settings: Any) -> GenerateConfig:
    return GenerateConfig.model_validate({"n": 4, "batchnorm_passes": 0, "bandwidth": 0.2, **settings})


def far(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return sum(float((a[name] - b[name]).square().sum()) for name in a if name.endswith("weight")) ** 0.5


def vectors_of(zoo: Zoo, run: Run) -> torch.Tensor:
    return torch.stack([Vectors(run).of(weights) for weights in zoo])


def test_the_published_size():
    """202.5 million parameters for CNN (m)."""
    shapes = {"a": (16, 3, 3, 3), "b": (32, 16, 3, 3), "c": (15, 32, 3, 3), "d": (20, 60), "e": (10, 20)}
    specs = []
    for name, shape in shapes.items():
        specs.append(TensorSpec(name=f"{name}.weight", shape=shape, dtype="float32", kind="float"))
        specs.append(TensorSpec(name=f"{name}.bias", shape=shape[:1], dtype="float32", kind="float"))
    settings: Any = load_method("sane")[0]
    layers = Layers(Structure(tensors=tuple(specs)))
    assert layers.rows == 93
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Autoencoder(layers, settings.model).parameters())
    assert parameters == pytest.approx(202.5e6, rel=1e-3)


def test_windows_change_nothing_where_tokens_do_not_look_around():
    layers = Layers(Structure.of(digits_networks(1)[0]))
    small = Autoencoder(layers, Model.model_validate(MODEL | {"window": 7, "halo": 2}))
    whole = Autoencoder(layers, Model.model_validate(MODEL | {"window": 1000, "halo": 0}))
    whole.load_state_dict({k: v for k, v in small.state_dict().items() if not k.startswith("head")}, strict=False)
    vector = torch.randn(2, layers.values)
    around = [model.vectors_of(model.codes_of(vector)) for model in (small, whole)]
    assert not torch.allclose(*around, atol=1e-3)
    for model in (small, whole):
        model.encoder, model.decoder = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    torch.testing.assert_close(small.codes_of(vector), whole.codes_of(vector))
    codes = [model.vectors_of(model.codes_of(vector)) for model in (small, whole)]
    torch.testing.assert_close(*codes)


# The loss


def noted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[tuple[Any, ...]]:
    """What this method of a class is given, without itself, and what it gives back last, call by call."""
    calls: list[tuple[Any, ...]] = []
    real = getattr(owner, name)

    def look(self, *given):
        found = real(self, *given)
        calls.append((*given, found))
        return found

    monkeypatch.setattr(owner, name, look)
    return calls


def test_the_loss_is_contrast_structure_and_behaviour_by_their_shares(zoo, tmp_path, monkeypatch) -> None:
    """Structure and behaviour in what they are before training."""
    terms, behaved = noted(monkeypatch, SANE, "_terms"), noted(monkeypatch, Behaviour, "distance")
    losses: list[float] = []
    make = SANE._loss

    def noting(self, *given):
        loss = make(self, *given)

        def look(module, step):
            found = loss(module, step)
            losses.append(found.item())
            return found

        return look

    monkeypatch.setattr(SANE, "_loss", noting)
    few, whole = TRAINING | {"steps": 5}, MODEL | {"window": 64, "halo": 0}
    shares = {"contrast": 0.2, "behaviour": 0.3, "queries": 16}
    train(config(model=whole, autoencoder=few, permutations=False, **shares), zoo, tmp_path / "both")
    (_, structure_before, _), *later = [call[-1] for call in terms]
    unit, *differences = [call[-1].item() for call in behaved]
    for loss, (contrast, structure, _), difference in zip(losses, later, differences, strict=True):
        rest = 0.7 * structure.item() / structure_before.item() + 0.3 * difference / unit
        assert loss == pytest.approx(0.2 * contrast.item() + 0.8 * rest, rel=1e-4)
    last = later[-1][1].item() / structure_before.item(), differences[-1] / unit, later[-1][0].item()
    assert min(abs(a - b) for a, b in combinations(last, 2)) > 0.05  # or shares could be swapped
    terms.clear()
    losses.clear()
    train(config(autoencoder=few, permutations=False, contrast=0.2), zoo, tmp_path / "one")
    assert losses == pytest.approx([0.2 * c.item() + 0.8 * s.item() for c, s, _ in (call[-1] for call in terms)])


@torch.no_grad()
def test_contrast_is_of_the_two_views_and_structure_of_the_values(zoo) -> None:
    """Padding is no value: whatever is found there is no error."""
    method = config(temperature=0.3).build()
    model = method.autoencoder(zoo.structure)
    positions = model.positions[: model.seen].expand(6, -1, -1)
    tokens = torch.randn(6, model.seen, MODEL["token_size"])
    contrast, structure, found = method._terms(model, tokens, positions)
    codes = model.encode(tokens, positions)
    projected = model.head(codes.flatten(1))
    assert contrast.item() == pytest.approx(nt_xent(projected[:3], projected[3:], 0.3).item())
    torch.testing.assert_close(found, model.decode(codes, positions))
    wrong = (found - tokens)[:, model.mask[: model.seen]].square().sum()
    assert structure.item() == pytest.approx(wrong.item() / tokens.numel(), rel=1e-5)


def test_both_views_are_multiplied_by_noise_of_their_own(zoo, tmp_path, monkeypatch) -> None:
    """10 percent, unless another is asked for; what is to be given back is the view with its noise."""
    cut, terms = noted(monkeypatch, SANE, "_windows"), noted(monkeypatch, SANE, "_terms")
    few = TRAINING | {"steps": 1}
    for asked_for, deviation in [({}, 0.1), ({"noise": 0.3}, 0.3)]:
        train(config(autoencoder=few, permutations=False, **asked_for), zoo, tmp_path / str(deviation))
        (plain, _), seen = cut[-1][-1], terms[-1][1]
        factors = torch.where(plain.abs() > 1e-3, seen / plain, torch.nan)
        for view in factors.chunk(2):
            values = view[view.isfinite()]
            assert values.mean().item() == pytest.approx(1, abs=0.02)
            assert values.std().item() == pytest.approx(deviation, rel=0.05)
        first, second = (view.flatten() for view in factors.chunk(2))
        both = torch.stack([first, second])[:, first.isfinite() & second.isfinite()]
        assert torch.corrcoef(both)[0, 1].abs() < 0.1


def test_the_first_view_is_the_second_with_its_hidden_units_in_another_order(zoo, tmp_path, monkeypatch) -> None:
    cut = noted(monkeypatch, SANE, "_windows")
    few, whole = TRAINING | {"steps": 1}, MODEL | {"window": 64, "halo": 0}
    run = train(config(model=whole, autoencoder=few), zoo, tmp_path / "run")
    model, _, rows, _, _, (tokens, _) = cut[0]
    first, second = model.vectors(tokens).chunk(2)
    originals = vectors_of(zoo, run)[torch.from_numpy(rows)][:, : first.shape[1]]
    torch.testing.assert_close(second, originals, rtol=1e-4, atol=1e-5)
    behaviour = Behaviour(digits_task(), Vectors(run).layout, {})
    images = behaviour.images(0, 0, 20)
    for moved, stays in zip(first, second, strict=True):
        assert not torch.allclose(moved, stays, rtol=0.1, atol=0.1)
        outputs = [behaviour.logits(vector, images) for vector in (moved, stays)]
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)


# What is learnt and drawn


def test_layers_are_standardised_and_come_back(trained):
    zoo, run = trained
    vectors = vectors_of(zoo, run)
    model = run.method()._model(Vectors(run), CPU)  # type: ignore[attr-defined]
    tokens = model.tokens(vectors)
    for layer in range(len(model.chunks.layers.layers)):
        chosen = model.positions[:, 1] == layer
        values = tokens[:, chosen][:, model.mask[chosen]]
        assert float(values.mean()) == pytest.approx(0, abs=1e-4)
        assert float(values.std()) == pytest.approx(1, abs=1e-2)
    back = model.vectors(tokens)
    torch.testing.assert_close(back, vectors[:, : back.shape[1]], atol=1e-5, rtol=1e-5)


def test_it_gives_back_networks_and_draws_near_their_mode(trained, tmp_path):
    zoo, run = trained
    originals, method = list(zoo), run.method()
    assert isinstance(method, SANE)
    for k, found in enumerate(reconstructed(method, run, zoo, zoo.entries, CPU)):
        assert far(found, originals[k]) < 0.6 * far(found, originals[(k + 1) % 2])
    made = generate(run, tmp_path / "made", asked())
    number = {entry.sha256: k for k, entry in enumerate(zoo.entries)}
    for entry, weights in zip(made.entries, made, strict=True):
        (parent,) = entry.parents
        assert number[parent] >= 5
        assert far(weights, originals[number[parent] % 2]) < far(weights, originals[1 - number[parent] % 2])
        assert entry.metrics == {}
    mixed = generate(run, tmp_path / "mixed", asked(seeds="independent"))
    assert max(len(entry.parents) for entry in mixed.entries) > 1
    more = generate(run, tmp_path / "more", asked(n=18))
    assert [entry.sha256 for entry in made.entries] == [entry.sha256 for entry in more.entries[:4]]


def test_a_selection_is_the_best_of_the_candidates(trained, tmp_path):
    run, task = trained[1], digits_task()
    candidates = generate(run, tmp_path / "all", asked(n=6, bandwidth=1.0))
    model, scores = task.build(0), []
    for weights in candidates:
        task.load(model, weights)
        (top1,) = (m.value for m in task.evaluate(model, "validation").metrics if m.name == "top1")
        scores.append(top1)
    order = sorted(range(6), key=lambda k: -scores[k])
    best = generate(run, tmp_path / "best", asked(n=2, bandwidth=1.0, candidates=6, kept=3))
    assert [entry.sha256 for entry in best.entries] == [candidates.entries[k].sha256 for k in order[:2]]
    assert [entry.metrics["top1"].value for entry in best.entries] == [scores[k] for k in order[:2]]
    assert best.manifest.origin.settings["generate"]["candidates"] == 6  # type: ignore[index,call-overload]


def test_bootstrapping_samples_around_what_was_kept(trained, tmp_path):
    """Without noise a further round can only copy what the first one kept."""
    zoo, run = trained
    asked_for = {"n": 3, "bandwidth": 0.0, "candidates": 4, "kept": 3}
    first, third = (generate(run, tmp_path / str(r), asked(**asked_for, rounds=r)) for r in (1, 3))
    made_of = {entry.sha256: entry.parents for entry in first.entries}
    for entry in third.entries:
        assert made_of[entry.sha256] == entry.parents
        assert set(entry.parents) <= {original.sha256 for original in zoo.entries[5:]}
    values = [entry.metrics["top1"].value for entry in third.entries]
    assert values == sorted(values, reverse=True)
    with_noise = generate(run, tmp_path / "noise", asked(**asked_for | {"bandwidth": 0.2}, rounds=2))
    assert not {entry.sha256 for entry in with_noise.entries} & set(made_of)


def test_running_statistics_are_measured_on_training_images(trained, tmp_path):
    run, task = trained[1], digits_task()
    plain = generate(run, tmp_path / "plain", asked(n=1))[0]
    found = generate(run, tmp_path / "found", asked(n=1, batchnorm_passes=30))[0]
    model = task.build(0)
    task.load(model, plain)
    model.train()
    with torch.no_grad():
        for images, _ in islice(task.batches(0, 0, 32), 30):
            model(images)
    for name, value in model.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(found[name], plain[name], rtol=0.05)
        else:
            torch.testing.assert_close(found[name], plain[name], rtol=1e-5, atol=1e-6)


def test_statistics_behind_dropout_are_a_function_of_the_seed():
    """Whatever torch's global generator has been used for before."""
    task, found = digits_task(), []
    for seed in (0, 0, 1):
        model = task.build(0)
        first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
        model.set_submodule(first, nn.Sequential(nn.Dropout(0.5), model.get_submodule(first)))
        condition_batchnorm(task, model, seed, 3, 32)
        assert not model.training
        found.append(torch.cat([value.flatten() for name, value in model.state_dict().items() if "running" in name]))
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_more_images_than_there_are_is_said_once(trained, caplog):
    behaviour = Behaviour(digits_task(), Vectors(trained[1]).layout, {})
    there = len(behaviour.task.train_index)
    assert len(behaviour.images(0, 0, there)) == there
    assert not caplog.messages
    assert len(behaviour.images(0, 0, 2048)) == len(behaviour.images(0, 1, 2048)) == there
    assert caplog.messages == [f"2,048 training images a step were asked for, and there are {there:,}: all are used"]


def test_behaviour_is_the_difference_of_softmax_outputs(trained):
    zoo, run = trained
    vectors, task = vectors_of(zoo, run)[:2], digits_task()
    behaviour = Behaviour(task, Vectors(run).layout, {})
    images = behaviour.images(0, 3, 20)
    assert torch.equal(images, behaviour.images(0, 3, 20))
    outputs = []
    for weights in list(zoo)[:2]:
        model = task.build(0)
        task.load(model, weights)
        outputs.append(model.eval()(images).softmax(1).detach())
    expected = float((outputs[0] - outputs[1]).square().mean())
    given = vectors.clone().requires_grad_()
    found = behaviour.distance(given[:1], vectors[1:], images)
    assert found.item() == pytest.approx(expected, rel=1e-3)
    (gradient,) = torch.autograd.grad(found, given)
    assert gradient[0].abs().max() > 0
    assert float(behaviour.distance(vectors, vectors, images)) == pytest.approx(0, abs=1e-12)


def test_structure_and_behaviour_are_measured_in_what_they_are_at_first(trained, tmp_path):
    zoo = trained[0]
    sizes = MODEL | {"window": 64, "halo": 0}
    training = TRAINING | {"steps": 20, "save_every": 10}
    settings = config(model=sizes, autoencoder=training, behaviour=0.7, queries=16, contrast=0.0)
    seen: list[float] = []
    terms = SANE._loss

    def noted(self, *given):
        loss = terms(self, *given)

        def stopping(module, step):
            if step == 15 and len(seen) < 20:
                raise KeyboardInterrupt
            found = loss(module, step)
            seen.append(found.item())
            return found

        return stopping

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SANE, "_loss", noted)
        with pytest.raises(KeyboardInterrupt):
            train(settings, zoo, tmp_path / "run")
    assert seen[0] == pytest.approx(1.0, rel=1e-5)  # 0.3 of one, 0.7 of the other, each in units of itself
    assert seen[-1] < 0.9
    again, whole = train(settings, zoo, tmp_path / "run"), train(settings, zoo, tmp_path / "whole")
    assert content(again.path) == content(whole.path)


def test_what_cannot_work_is_refused_before_any_work(trained, tmp_path, monkeypatch):
    unscored = digits_zoo(tmp_path / "unscored", 3, scores=False)
    with pytest.raises(ValueError, match=r"no validation scores.*--set method\.best=1"):
        rpg.api.train(unscored, "sane-small", out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"compares whole networks, but these have .* a window has 8"):
        rpg.api.train(trained[0], "sane-behaviour-small", out=tmp_path / "run", window=8)
    unknown = digits_zoo(tmp_path / "unknown", 3, task={})
    with pytest.raises(ValueError, match=r"do not classify images.*--set method\.behaviour=0"):
        rpg.api.train(unknown, "sane-behaviour-small", out=tmp_path / "run", permutations=False)
    cifar = digits_zoo(tmp_path / "cifar", 3, task=TASK | {"data": "cifar10"})
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    with pytest.raises(MissingData, match="cifar10"):
        rpg.api.train(cifar, "sane-behaviour-small", out=tmp_path / "run", permutations=False)
    assert not (tmp_path / "run").exists()
    for settings, message in [
        ({"rounds": 2}, "set candidates, too"),
        ({"candidates": 5, "kept": 6}, "kept = 6 of candidates = 5"),
        ({"candidates": 50, "kept": 3}, "n = 4, but only the 3 best are kept"),
    ]:
        with pytest.raises(ValueError, match=message):
            asked(**settings)
    for sizes, message in [({"window": 8}, "nothing but halo"), ({"width": 3, "heads": 1}, "width = 3 is odd")]:
        with pytest.raises(ValueError, match=message):
            config(model=MODEL | sizes)


def test_drawing_without_the_data_it_needs_is_refused(trained, tmp_path, monkeypatch):
    origin = Origin(name="mine", kind="collected", command=(), versions={})
    with pytest.raises(ValueError, match=r"networks of mine do not classify images.*do that"):
        task_with_data(origin, CPU, "do that")
    zoo = digits_zoo(tmp_path / "zoo", 3, task=TASK | {"data": "cifar10"})
    small = config(permutations=False, best=1.0, autoencoder=TRAINING | {"steps": 1})
    run = train(small, zoo, tmp_path / "run")
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    with pytest.raises(MissingData):
        generate(run, tmp_path / "made", asked(batchnorm_passes=5))
    looked, build = [], classification.Config.build

    def remember(self, data_root, device):
        looked.append(data_root)
        return build(self, data_root, device)

    monkeypatch.setattr(classification.Config, "build", remember)
    with pytest.raises(MissingData):
        rpg.api.generate(run, out=tmp_path / "made", data_root=tmp_path / "here", n=1, batchnorm_passes=5)
    assert looked == [tmp_path / "here"]
    assert not (tmp_path / "made").exists()
    assert len(generate(run, tmp_path / "made", asked())) == 4


def test_a_vit_base_is_estimated_without_taking_memory():
    specs = [TensorSpec(name=f"{k}.weight", shape=(768, 768), dtype="float32", kind="float") for k in range(145)]
    settings, request = load_method("sane-small")
    found: Any = settings.build().estimate(Structure(tensors=tuple(specs)), 50, request, DEVICES["h200"])  # type: ignore[attr-defined]
    assert found.figures["device"]["training_fits"] is True
    assert found.draw_bytes > 4 * 145 * 768 * 768


def test_an_estimate_says_what_it_leaves_out():
    specs = [TensorSpec(name=f"{k}.weight", shape=(8, 8), dtype="float32", kind="float") for k in range(2)]
    for share, said in ((0.0, False), (0.5, True)):
        found = (
            config(behaviour=share, queries=64)
            .build()
            .estimate(Structure(tensors=tuple(specs)), 3, GenerateConfig(), DEVICES["h200"])
        )
        assert ("not counted what 64 images a step cost" in found.text) == said


def test_behaviour_takes_its_images_from_where_the_call_says(trained, tmp_path, monkeypatch):
    """Before RPG_DATA, which is for those who say nothing."""
    asked = []

    def remember(self, data_root, device):
        asked.append(data_root)
        raise MissingData("there are none")

    monkeypatch.setattr(classification.Config, "build", remember)
    monkeypatch.setenv("RPG_DATA", str(tmp_path / "elsewhere"))
    data = TrainingSet(trained[0], "train", tuple(trained[0].select("train")))
    whole = MODEL | {"window": 50, "halo": 0}
    for place in (tmp_path / "here", None):
        with pytest.raises(MissingData):
            config(behaviour=0.5, model=whole).build().check(data, Machine(CPU, (), place))
    assert asked == [tmp_path / "here", tmp_path / "elsewhere"]


def test_settings_that_do_nothing_are_said(trained, tmp_path, caplog):
    data = TrainingSet(trained[0], "train", tuple(trained[0].select("train")))
    config(permutations=False, queries=64).build().check(data, Machine(CPU))
    rpg.api.plan_generation(trained[1], {"kept": 3, "n": 1, "batchnorm_passes": 0}, out=tmp_path / "made").carry_out()
    assert [text for text in caplog.messages if "ignored" in text] == [
        "method.queries = 64 is ignored: method.behaviour is 0",
        "generate.kept = 3 is ignored: it is of candidates, and none are asked for",
    ]
