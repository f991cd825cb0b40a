"""RPG with a continuous latent: codes, joint denoising, the loss against sums by hand, draws, resuming, estimates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from linear_gaussian import CPU, check_distribution, draws, flat, gaussian_zoo, network, values_of
from pydantic import ValidationError
from tokenised import digits_networks, digits_task, digits_zoo
from torch import Tensor

import rpg.api
from evaluators import two_sample
from learning import content, generate, train
from rpg.devices import DEVICES
from rpg.methods.base import Machine, TrainingSet
from rpg.methods.components import Components
from rpg.methods.rpg_latent.config import Config, LatentDraw
from rpg.methods.rpg_latent.energy import energy_distance, spread_distance
from rpg.methods.rpg_latent.method import RPGLatent, Step
from rpg.methods.rpg_latent.model import LatentGenerator
from rpg.methods.task_data import Behaviour
from rpg.methods.vectors import Vectors
from rpg.run import Run
from rpg.tokens.layout import Layout
from zoo.errors import Failed
from zoo.manifest import Origin
from zoo.recipe import load_method
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.writer import ZooWriter

MODEL: dict[str, Any] = {
    "token_size": 16,
    "d_model": 32,
    "d_state": 8,
    "head_dim": 16,
    "num_layers": 1,
    "channels": (1, 4, 4, 1),
}
TRAINING: dict[str, Any] = {"steps": 250, "batch_size": 16, "learning_rate": 5e-3, "gradient_clipping": 1.0}


def config(**settings: Any) -> Config:
    model, training = ({**base, **settings.pop(key, {})} for base, key in ((MODEL, "model"), (TRAINING, "generator")))
    return Config.model_validate({"name": "rpg-latent", "model": model, "generator": training, **settings})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Zoo, Run]:
    place = tmp_path_factory.mktemp("latent")
    zoo = gaussian_zoo(place / "zoo")
    return zoo, train(config(rank=3), zoo, place / "run")


def generator_of(joint: bool, length: int = 3) -> LatentGenerator:
    torch.manual_seed(0)
    model = config(model={"joint": joint, "token_size": 8}).model
    return LatentGenerator(model, torch.tensor([[k, 0] for k in range(length)]), 2).eval()


# Codes


def test_codes_have_mean_zero_and_variance_one_and_others_are_encoded_alike():
    rng = torch.Generator().manual_seed(0)
    training = torch.randn(20, 4, generator=rng) @ torch.randn(4, 30, generator=rng) + 3
    components = Components.fit(training.numpy(), 6)
    units = components.units
    torch.testing.assert_close(units.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(units[:, :4].T.cov(), torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    assert not units[:, 4:].any(), "rank 4 has no more components: these would be rounding, as large as the others"
    torch.testing.assert_close(components.encode_units(training), units, atol=1e-4, rtol=0)


# Energy distance


def test_the_energy_distance_is_that_of_reports_in_units_of_the_zoo():
    rng = torch.Generator().manual_seed(1)
    found, given = 0.5 * torch.randn(5, 12, generator=rng) + 1, torch.randn(7, 12, generator=rng)
    apart = [torch.cdist(a.double(), b.double()).numpy() for a, b in ((found, given), (found, found), (given, given))]
    unit = np.sum(apart[2]) / (7 * 6)
    assert float(energy_distance(found, given)) == pytest.approx(two_sample.energy_distance(*apart) / unit, rel=1e-5)


def test_with_p_1_it_is_the_sum_of_that_of_each_value_and_leading_dimensions_are_averaged():
    rng = torch.Generator().manual_seed(1)
    found, given = torch.randn(2, 5, 3, generator=rng) + 1, torch.randn(2, 7, 3, generator=rng)
    expected = unit = 0.0
    for group in range(2):
        for value in range(3):
            own, others = found[group, :, value], given[group, :, value]
            apart = [(a[:, None] - b).abs().double().numpy() for a, b in ((own, others), (own, own), (others, others))]
            between, within, beside = apart[0].mean(), apart[1].sum() / (5 * 4), apart[2].sum() / (7 * 6)
            expected, unit = expected + 2 * between - within - beside, unit + beside
    assert float(energy_distance(found, given, p=1.0)) == pytest.approx(expected / unit, rel=1e-5)


def test_a_spread_in_the_wrong_values_costs_little_by_itself_and_much_value_by_value():
    rng = torch.Generator().manual_seed(2)
    given, drawn = torch.randn(64, 500, generator=rng), torch.randn(64, 500, generator=rng)
    drawn[:, :250] *= 2**0.5
    drawn[:, 250:] = 0
    assert float(energy_distance(drawn, given)) < 0.02
    assert float(energy_distance(drawn, given, p=1.0)) > 0.1
    both = energy_distance(drawn, given), energy_distance(drawn, given, p=1.0)
    assert float(spread_distance(drawn, given)) == pytest.approx(sum(map(float, both)) / 2)


def test_networks_that_are_all_the_mean_are_as_far_as_geometry_says_and_are_driven_apart():
    rng = torch.Generator().manual_seed(2)
    given = torch.randn(64, 500, generator=rng)
    assert float(energy_distance(torch.zeros(8, 500), given)) == pytest.approx(2**0.5 - 1, rel=0.02)
    found = torch.zeros(8, 500, requires_grad=True)
    assert torch.autograd.grad(energy_distance(found, given), found)[0].isfinite().all()
    found = (0.01 * torch.randn(8, 500, generator=rng)).requires_grad_()
    optimizer = torch.optim.Adam([found], 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        energy_distance(found, given).backward()
        optimizer.step()
    spread = torch.cdist(found, found).sum() / (8 * 7)
    assert float(spread.detach()) == pytest.approx(float(torch.cdist(given, given).sum() / (64 * 63)), rel=0.15)


# Denoising jointly


@pytest.mark.parametrize("joint", [True, False])
def test_each_estimate_knows_all_tokens_of_its_network_or_its_own_alone(joint: bool):
    generator = generator_of(joint)
    noisy, latents = torch.randn(2 * 3, 8), torch.randn(2, 2)

    def estimate(noisy: Tensor) -> Tensor:
        return generator.estimates(noisy, torch.full((6,), 500), latents)[0]

    jacobian = torch.autograd.functional.jacobian(estimate, noisy)  # (6, 8, 6, 8)
    assert isinstance(jacobian, Tensor)
    depends = jacobian.abs().amax((1, 3)) > 0
    known = torch.ones(3, 3, dtype=torch.bool) if joint else torch.eye(3, dtype=torch.bool)
    assert torch.equal(depends, torch.block_diag(known, known))


def test_what_samples_is_what_was_trained():
    """A sampler embeds the time once for all tokens."""
    for joint in (True, False):
        generator = generator_of(joint)
        noisy, latents = torch.randn(6, 8), torch.randn(2, 2)
        expected, _ = generator.estimates(noisy, torch.full((6,), 7), latents)
        prototypes, readouts = (tokens.flatten(0, 1) for tokens in generator.read_out(latents))
        sampled = generator.sampled_with
        found = sampled.denoise(noisy, sampled.time_embedding(torch.tensor([7])), readouts if joint else prototypes)
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_tokens_that_are_equal_come_out_equal_where_they_are_denoised_jointly(tmp_path):
    """The latent is drowned in noise, so that nothing else could tell one token of the other."""
    origin = Origin(name="twins", kind="collected", task={"name": "toy"}, command=("x",), versions={})
    values = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    with ZooWriter(tmp_path / "zoo", origin, Structure.of({"a": values[0], "b": values[1]})) as writer:
        for k, value in enumerate(values):
            writer.add(f"net-{k:03d}", {"a": value, "b": value.clone()}, seed=k, split="train")
        zoo = writer.finish()
    found = {}
    for joint in (True, False):
        settings = config(
            rank=4,
            noise=30.0,
            model={"token_size": 4, "joint": joint, "channels": (1, 8, 8, 1)},
            generator={"steps": 400, "batch_size": 64, "learning_rate": 5e-3},
        )
        run = train(settings, zoo, tmp_path / f"run-{joint}")
        made = list(generate(run, tmp_path / f"made-{joint}", LatentDraw(n=100, steps=50)))
        both = torch.stack([torch.cat([weights["a"], weights["b"]]) for weights in made])
        found[joint] = float(torch.stack([both[:, [k, k + 4]].T.corrcoef()[0, 1] for k in range(4)]).mean())
    assert abs(found[False]) < 0.25
    assert found[True] > 0.7


# The loss


def digits_step(settings: Config, layout: Layout, count: int) -> Step:
    tokens = torch.stack([layout.encode(weights) for weights in digits_networks(count)])
    rng = torch.Generator().manual_seed(5)
    method = RPGLatent(settings)
    return method._step(tokens, torch.randn(count, 2, generator=rng), torch.ones(2), method._schedule(), rng)


@pytest.mark.parametrize("joint", [True, False])
def test_the_loss_is_the_sum_over_tokens_by_hand(joint: bool):
    settings = config(prototype_loss=0.7, min_snr=2.0, model={"joint": joint, "token_size": 40})
    networks = digits_networks(3)
    layout = Layout.fit(Structure.of(networks[0]), lambda: networks, 40)
    step, mask = digits_step(settings, layout, 3), layout.mask()
    levels = step.levels.view(3, -1)
    assert bool((levels == levels[:, :1]).all()) == joint
    torch.manual_seed(0)
    method = RPGLatent(settings)
    model, schedule = method._built(layout.structure, 2).eval(), method._schedule()
    found = method._terms(model, schedule, step, mask.flatten().nonzero().flatten())

    signal = (1 - settings.diffusion.betas()).cumprod(0)[step.levels].float()[:, None]
    clean = step.tokens.flatten(0, 1)
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * step.noise
    with torch.no_grad():
        left, readouts = model.estimates(noisy, step.levels, step.latents)
    total = 0.0
    for token in range(len(clean)):
        for value in mask.repeat(3, 1)[token].nonzero().flatten().tolist():
            snr = float(signal[token] / (1 - signal[token]))
            error = left[token, value] + readouts[token, value] - clean[token, value]
            total += min(snr, 2.0) * float(error) ** 2
            total += 0.7 * float(readouts[token, value] - clean[token, value]) ** 2
    assert found.item() == pytest.approx(total / (3 * int(mask.sum())), rel=1e-4)


GROUPS = (slice(0, 10), slice(0, 10), slice(10, 20), slice(10, 20))  # which of 20 images each of 4 networks in 2 sees


def test_behaviour_and_diversity_are_those_of_the_networks_that_are_drawn():
    networks, task = digits_networks(3), digits_task()
    layout = Layout.fit(Structure.of(networks[0]), lambda: networks, 40)
    values = layout.mask().flatten().nonzero().flatten()
    behaviour = Behaviour(task, layout, {})
    batch = behaviour.batch(0, 3, 20)
    terms, step = [], digits_step(config(drawn=4, noise=0.5, behaviour=1.0, model={"token_size": 40}), layout, 3)
    assert step.drawn.shape == (4, 2)
    for weights in (
        *({}, {"behaviour": 0.3, "diversity": 0.0}, {"behaviour": 0.3, "diversity": 2.0}),
        *({"zoo": 0.0, "behaviour": 0.3}, {"zoo": 2.0}, {"zoo": 0.0, "function_diversity": 0.7}),
    ):
        settings = config(drawn=4, noise=0.5, model={"token_size": 40}, **weights)
        method, drawing = RPGLatent(settings), digits_step(settings, layout, 3)
        torch.manual_seed(0)
        model = method._built(layout.structure, 2).eval()
        terms.append(method._terms(model, method._schedule(), drawing, values, behaviour, batch))
    constants = {name: value for name, value in networks[0].items() if not value.is_floating_point()}
    found = model.read_out(step.drawn)[1]
    losses, outputs = [], []
    for tokens in (*found.detach(), *step.tokens):
        network = task.build(0)
        task.load(network, layout.decode(tokens, constants))
        logits = network.eval()(batch[0]).detach()
        outputs.append(logits.softmax(-1))
        losses.append(F.cross_entropy(logits, batch[1]).item())
    losses, mine, theirs = losses[:4], torch.stack(outputs[:4]), torch.stack(outputs[4:])
    assert float(terms[1] - terms[0]) == pytest.approx(0.3 * sum(losses) / 4, rel=1e-3)
    assert float(terms[3]) == pytest.approx(0.3 * sum(losses) / 4, rel=1e-3)  # of the zoo nothing
    assert float(terms[4]) == pytest.approx(2 * float(terms[0]), rel=1e-5)
    by_image = [[torch.cdist(a[:, k], b[:, k]) for k in range(20)] for a, b in ((mine, theirs), (mine, mine))]
    unit = float(torch.stack([torch.cdist(theirs[:, k], theirs[:, k]).sum() for k in range(20)]).mean()) / (3 * 2)
    between, own = float(torch.stack(by_image[0]).mean()), float(torch.stack(by_image[1]).sum()) / 20 / (4 * 3)
    assert float(terms[5]) == pytest.approx(0.7 * (2 * between - own - unit) / unit, rel=1e-2)
    grouped = RPGLatent(config(drawn=4, groups=2, zoo=0.0, behaviour=0.3, model={"token_size": 40}))
    halves = [F.cross_entropy(outputs[k].log()[part], batch[1][part]) for k, part in zip(range(4), GROUPS, strict=True)]
    loss = grouped._terms(model, method._schedule(), step, values, behaviour, batch)
    assert float(loss) == pytest.approx(0.3 * float(torch.stack(halves).mean()), rel=1e-3)
    mask = layout.mask()
    expected = 2 * spread_distance(found[:, mask], step.tokens[:, mask])
    assert float(terms[2] - terms[1]) == pytest.approx(float(expected), rel=1e-3)
    (gradient,) = torch.autograd.grad(behaviour.cross_entropy(found.flatten(1)[:, values], batch), found)
    running = [k for k, tensor in enumerate(layout.tensors) if ".running_" in tensor.name]
    first = [tensor.first_token for tensor in layout.tensors]
    assert running
    assert not gradient[:, [first[k] for k in running]].any()
    assert gradient[:, first[0]].any()


# Training and drawing


def test_draws_have_the_distribution_of_the_zoo(trained):
    zoo, run = trained
    given = values_of(zoo)
    for sampler in ("readout", "dpm++"):
        check_distribution(draws(run, LatentDraw(n=200, sampler=sampler)), given)


def test_along_components_that_are_nothing_draws_are_as_wide_as_training_latents(tmp_path):
    """Networks of rank 3, of which all 99 components are asked for: 96 have codes of zero, and noise alone."""
    zoo = gaussian_zoo(tmp_path / "zoo")
    settings = config(noise=0.3, diversity=0.1, drawn=16, generator={**TRAINING, "steps": 1})
    run = train(settings, zoo, tmp_path / "run")
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, RPGLatent)
    components = method._components(vectors)
    codes, alive = components.units.float(), components.alive
    assert codes.shape[1] == len(zoo) - 1
    assert int(alive.sum()) == 3
    spread, rng = settings.spread(alive), torch.Generator().manual_seed(0)
    tokens = torch.from_numpy(vectors.open()[:]).unflatten(1, vectors.layout.mask().shape)
    steps = [method._step(tokens, codes, spread, method._schedule(), rng) for _ in range(20)]
    made = torch.stack([method._latent(codes, spread, LatentDraw(), k)[0] for k in range(500)])
    learnt = torch.cat([step.latents for step in steps])
    for found in (made, torch.cat([step.drawn for step in steps])):
        for part in (alive, ~alive):
            assert float(found[:, part].std()) == pytest.approx(float(learnt[:, part].std()), rel=0.1)


def test_temperature_is_how_far_draws_are_from_the_network_of_the_mean_code(trained):
    _, run = trained
    mean = draws(run, LatentDraw(n=2, temperature=0.0, sampler="readout"))
    torch.testing.assert_close(mean[0], mean[1])
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, RPGLatent)
    codes, spread = method._components(vectors).units.float(), method.config.spread(torch.tensor([True]))
    wide, narrow = (
        torch.stack([method._latent(codes, spread, LatentDraw(temperature=t), k)[0] for k in range(500)])
        for t in (1.0, 0.25)
    )
    torch.testing.assert_close(0.25 * wide, narrow)
    assert float(wide.std()) == pytest.approx(float(spread), rel=0.05)


def test_interpolations_lie_between_two_training_networks_that_are_recorded(trained, tmp_path):
    zoo, run = trained
    request = LatentDraw(n=6, latents="interpolated", sampler="readout")
    made = generate(run, tmp_path / "made", request)
    method, number = run.method(), {entry.sha256: k for k, entry in enumerate(zoo.entries)}
    assert isinstance(method, RPGLatent)
    codes = method._components(Vectors(run)).units.float()
    originals = values_of(zoo)
    for k, entry in enumerate(made.entries):
        first, second = (number[parent] for parent in entry.parents)
        latent, rows = method._latent(codes, torch.ones(codes.shape[1]), request, k)
        assert rows == [first, second]
        assert first != second
        around = (latent - codes[first]).norm() + (latent - codes[second]).norm()
        assert float(around) == pytest.approx(float((codes[first] - codes[second]).norm()), rel=1e-4)
        found, ends = flat(made[k]), originals[[first, second]]
        length = (ends[0] - ends[1]).norm()
        assert (found - ends[0]).norm() + (found - ends[1]).norm() < 1.2 * length + 1.0


def test_a_network_depends_on_seed_and_number_alone(trained):
    _, run = trained
    few, many = (draws(run, LatentDraw(n=n)) for n in (2, 5))
    torch.testing.assert_close(few, many[:2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(few, draws(run, LatentDraw(n=2, seed=1)), atol=0.1)


def test_guided_networks_do_better_on_training_images(tmp_path):
    """Images of other steps than they were guided by; and network k is the same in whatever company."""
    zoo = digits_zoo(tmp_path / "zoo")
    run = train(config(model={"token_size": 40}, generator={"steps": 40, "batch_size": 4}), zoo, tmp_path / "run")
    vectors, losses = Vectors(run), []
    behaviour = Behaviour(digits_task(), vectors.layout, {})
    values = vectors.layout.mask().flatten()
    for guidance in (0.0, 0.3, 3.0):
        led = {"guidance": guidance, "images": 64} if guidance else {}
        request = LatentDraw(n=3, steps=10, **led)
        method = run.method()
        assert isinstance(method, RPGLatent)
        made = method.make(vectors, request, range(3), CPU).vectors
        losses.append(float(behaviour.cross_entropy(made[:, values], behaviour.batch(7, 100, 300))))
        alone = method.make(vectors, request, [1], CPU).vectors
        torch.testing.assert_close(alone[0], made[1], rtol=1e-3, atol=1e-4)
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 0.95 * losses[0]
    with pytest.raises(Failed, match=r"guidance = 300 drives networks out of bounds; lower generate.guidance"):
        method.make(vectors, request.model_copy(update={"guidance": 300.0}), range(3), CPU)


def test_guidance_needs_diffusion_and_images(trained, tmp_path):
    _, run = trained
    with pytest.raises(ValidationError, match=r"guidance = 2 is of diffusion, and sampler = readout takes none"):
        LatentDraw(guidance=2, sampler="readout")
    with pytest.raises(ValidationError, match=r"images = 5 are what guidance looks at, but guidance = 0"):
        LatentDraw(images=5)
    with pytest.raises(ValueError, match=r"no task named .toy."):
        generate(run, tmp_path / "made", LatentDraw(n=2, guidance=2))
    assert not (tmp_path / "made" / "manifest.json").exists()


def test_networks_come_back_from_their_codes(trained):
    """Those it has seen, and others of the same plane."""
    zoo, run = trained
    method, vectors = run.method(), Vectors(run)
    assert isinstance(method, RPGLatent)
    others = [vectors.of(weights) for weights in (network(seed) for seed in range(1000, 1010))]
    given = torch.stack([*map(vectors.of, list(zoo)[:10]), *others])
    back = method.reconstruct(vectors, given, CPU)
    for part in (slice(10), slice(10, 20)):
        assert (back[part] - given[part]).norm() < 0.3 * (given[part] - given.mean(0)).norm()
    facts = json.loads((run.path / "trained.json").read_text())["facts"]
    assert facts["rank"] == 3
    mean = float((back[:10] - given[:10]).square().sum() / 400)
    assert facts["reconstruction_error"] == pytest.approx(mean, rel=0.5)


def test_an_interrupted_training_continues_to_the_same_bytes(tmp_path):
    zoo = digits_zoo(tmp_path / "zoo")
    settings = config(
        behaviour=0.1,
        diversity=1.0,
        images=16,
        drawn=2,
        model={"token_size": 40, "joint": True},
        generator={"steps": 20, "save_every": 10, "batch_size": 3, "ema": 0.9},
    )
    terms, seen = RPGLatent._terms, []

    def stopping(self, *given):
        seen.append(len(seen))
        if len(seen) == 15:
            raise KeyboardInterrupt
        return terms(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RPGLatent, "_terms", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(settings, zoo, tmp_path / "run")
    again, whole = train(settings, zoo, tmp_path / "run"), train(settings, zoo, tmp_path / "whole")
    assert content(again.path) == content(whole.path)
    assert len(generate(again, tmp_path / "made", LatentDraw(n=2, steps=3))) == 2


# Refusing, and what it costs


def test_what_cannot_work_is_refused_in_a_line(tmp_path: Path):
    zoo = digits_zoo(tmp_path / "zoo", 4, task={})
    data = TrainingSet(zoo, "train", tuple(zoo.entries))
    for settings, message in [
        ({"rank": 4}, r"method\.rank = 4, but 4 networks have 3 components"),
        ({"behaviour": 0.1}, r"do not classify images.*--set method\.behaviour=0"),
        ({"function_diversity": 0.1}, r"do not classify images.*use --set method\.function_diversity=0"),
        ({"function_diversity": 0.1, "groups": 3}, r"compares 6 networks.*there are 4; use --set method\.groups=2"),
    ]:
        with pytest.raises(ValueError, match=message):
            config(**settings).build().check(data, Machine(CPU))
    with pytest.raises(ValueError, match="has 1 network to learn from"):
        config().build().check(TrainingSet(zoo, "train", tuple(zoo.entries[:1])), Machine(CPU))
    with pytest.raises(ValidationError, match="batch_size = 1; set 2 or more"):
        config(diversity=1.0, generator={"batch_size": 1})
    with pytest.raises(ValidationError, match="batch_size = 5; set 6 or more"):
        config(function_diversity=1.0, groups=3, generator={"batch_size": 5})
    with pytest.raises(ValidationError, match="groups = 3 have not two each of drawn = 4"):
        config(behaviour=1.0, groups=3, drawn=4)
    with pytest.raises(ValidationError, match="groups = 3 are of networks that look at images, and none do"):
        config(diversity=1.0, groups=3)
    with pytest.raises(ValidationError, match="zoo and all that is asked of drawn networks are 0"):
        config(zoo=0.0)

    def idle(**settings: Any) -> list[str]:
        return [line.partition(" is ignored: ")[0] for line in config(**settings).idle]

    assert idle(images=64, drawn=8) == ["method.images", "method.drawn"]
    assert idle(diversity=1.0, images=64, drawn=8) == ["method.images"]
    assert idle(zoo=0.0, behaviour=0.1, images=64, prototype_loss=2.0) == ["method.prototype_loss"]
    assert idle(zoo=0.0, behaviour=0.1, model={"joint": True}) == ["method.model.joint"]
    assert config().build().encodes
    assert not config(zoo=0.0, behaviour=0.1).build().encodes  # codes say nothing of their networks
    hypernetwork = config(zoo=0.0, behaviour=0.1).build()
    assert hypernetwork.estimate(zoo.structure, 4, LatentDraw(sampler="readout"), DEVICES["h200"]).fit_flops > 0
    with pytest.raises(ValidationError, match="permutation_state"):
        config(model={"permutation_state": "one-hot"})
    with pytest.raises(ValidationError, match="temperature is the width of the Gaussian"):
        LatentDraw(latents="interpolated", temperature=0.5)
    with pytest.raises(ValueError, match="2000 sampling steps, but the schedule has 1000"):
        config().build().estimate(zoo.structure, 4, LatentDraw(steps=2000), DEVICES["h200"])
    with pytest.raises(ValueError, match="1 network spans nothing"):
        config().build().estimate(zoo.structure, 1, LatentDraw(), DEVICES["h200"])


def test_the_estimate_counts_every_option():
    structure, sizes = Structure.of(digits_networks(1)[0]), {"token_size": 80, "recurrent": "none"}

    def estimate(request: LatentDraw | None = None, *, joint: bool = False, diversity: float = 0.0) -> Any:
        model = {**sizes, "joint": joint}
        method = config(rank=5, generator={"batch_size": 4}, diversity=diversity, model=model).build()
        found = method.estimate(structure, 20, request or LatentDraw(), DEVICES["h200"])
        assert found.parameters == method._built(structure, 5).num_parameters
        return found

    plain, wide, joint = estimate(), estimate(diversity=1.0), estimate(joint=True)
    alone, twice = estimate(LatentDraw(sampler="readout")), estimate(LatentDraw(steps=40))
    assert joint.fit_flops > 1.5 * plain.fit_flops
    assert wide.fit_flops > 1.5 * plain.fit_flops
    assert wide.draw_flops == plain.draw_flops
    assert joint.draw_flops > 1.5 * plain.draw_flops
    assert twice.draw_flops - plain.draw_flops == pytest.approx(plain.draw_flops - alone.draw_flops, rel=1e-3)


def test_the_settings_for_two_cores_parse():
    settings, request = load_method("rpg-latent-small")
    assert isinstance(settings, Config)
    assert isinstance(request, LatentDraw)
    assert settings.model.recurrent == "mamba"
    assert not settings.idle


def test_draws_that_are_not_finite_leave_the_place_to_other_settings(trained, tmp_path):
    _, run = trained
    with pytest.raises(Failed, match="not finite; train longer, or draw with other settings"):
        rpg.api.generate(run, out=tmp_path / "made", n=1, temperature=1e38)
    assert not (tmp_path / "made").exists()
    assert len(rpg.api.generate(run, out=tmp_path / "made", n=1, temperature=1.0)) == 1
