"""Aligning a zoo: the same functions, back to the same bytes, whatever happens on the way."""

from itertools import repeat

import pytest
import torch

from symmetry_cases import case, copies, moved_copies, random_weights
from zoo.derive import align as align_module
from zoo.derive.align import align, read_alignment, unalign
from zoo.derive.alignment import AlignConfig, runs
from zoo.derive.take import take
from zoo.errors import Corrupt, MissingData
from zoo.manifest import Origin
from zoo.store import Zoo
from zoo.structure import Structure
from zoo.symmetry.activations import recorder
from zoo.symmetry.refine import Images, Refinement
from zoo.writer import ZooWriter

ORIGIN = Origin(name="toy", kind="collected", task={"name": "toy"}, command=("x",), versions={})


def make(path, name, n=6, noise=0.4, held_out=1, steps=1, order=None, dtype=torch.float32):
    """A zoo of n noised copies of one network, each moved by an element of its own; and network, specification."""
    network, build, inputs = case(name)
    specification = build(network)
    state = network.state_dict(keep_vars=True)  # tied tensors are one object
    structure = Structure.of(state if name == "tied" else {key: tensor.to(dtype) for key, tensor in state.items()})
    networks = copies(random_weights(network), n, noise)
    networks |= {spec.name: networks[spec.tied_to] for spec in structure if spec.tied_to}
    stack, _ = moved_copies(specification, networks)
    types = {spec.name: spec.dtype for spec in structure}
    stack = {k: t.to(getattr(torch, types[k])) for k, t in stack.items()}
    with ZooWriter(path, ORIGIN, structure) as writer:
        for place, k in enumerate(order or range(n)):
            for step in range(1, steps + 1):
                weights = {
                    key: t[k] if step == steps or not t.is_floating_point() else 0.9 * t[k] for key, t in stack.items()
                }
                split = "train" if k < n - held_out else "heldout"
                writer.add(f"net{place:03d}-{step}", weights, seed=k, split=split, step=step)
        return writer.finish(), network.float(), specification, inputs


def outputs(network, zoo, inputs):
    found = []
    for weights in zoo.checkpoints(zoo.entries):
        network.load_state_dict(weights)
        with torch.no_grad():
            found.append(network.eval()(inputs))
    return torch.stack(found)


def spread(zoo):
    """The mean squared distance to the mean, of all floating-point weights."""
    flat = torch.stack([torch.cat([t.double().flatten() for t in w.values()]) for w in zoo.checkpoints(zoo.entries)])
    return float((flat - flat.mean(0)).square().sum(1).mean())


def forget(zoo, path):
    """Undo with an alignment that lacks the first network."""
    about = read_alignment(zoo)
    rows = {id: row for id, row in about.rows.items() if id != zoo.entries[0].id}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align_module, "read_alignment", lambda _: about.model_copy(update={"rows": rows}))
        unalign(zoo, ORIGIN, path)


def content(zoo):
    return {entry.id: entry.sha256 for entry in zoo.entries}


@pytest.mark.parametrize("name", ["cnn_small", "cnn_digits", "resnet_group_norm", "vit", "dora", "tied"])
def test_networks_compute_the_same_and_undo_gives_the_original_bytes(tmp_path, name):
    zoo, network, specification, inputs = make(tmp_path / "zoo", name)
    aligned = align(AlignConfig(restarts=2), zoo, specification, ORIGIN, tmp_path / "aligned")
    assert content(aligned) != content(zoo)
    assert spread(aligned) < 0.8 * spread(zoo)
    before, after = outputs(network, zoo, inputs), outputs(network, aligned, inputs)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    back = unalign(aligned, ORIGIN, tmp_path / "back")
    assert content(back) == content(zoo)
    for entry in zoo.entries:
        assert (tmp_path / "back" / entry.file).read_bytes() == (tmp_path / "zoo" / entry.file).read_bytes()
    assert list(aligned.problems()) == []
    about = read_alignment(aligned)
    assert about.source == zoo.sha256
    assert about.shares[-1] > about.before
    assert aligned.structure == zoo.structure


def test_some_of_an_aligned_zoo_go_back_too(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_small")
    aligned = align(AlignConfig(restarts=1), zoo, specification, ORIGIN, tmp_path / "aligned")
    some = take(aligned, 2, ("x",), tmp_path / "some")
    assert len(some.entries) < len(zoo.entries)
    assert some.entries[-1] == aligned.entries[-1]
    back = content(unalign(some, ORIGIN, tmp_path / "back"))
    assert back == {entry.id: content(zoo)[entry.id] for entry in some.entries}


def test_a_network_that_is_not_finite_is_named(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_small", n=3)
    with ZooWriter(tmp_path / "broken", ORIGIN, zoo.structure) as writer:
        for k, weights in enumerate(zoo.checkpoints(zoo.entries)):
            name = next(iter(weights))
            weights[name].view(-1)[0] = float("nan") if k == 1 else 0.0
            writer.add(f"n{k}", weights, seed=k, split="train")
        broken = writer.finish()
    with pytest.raises(ValueError, match=f"n1 of .*broken has values that are NaN or infinite in {name}"):
        align(AlignConfig(), broken, specification, ORIGIN, tmp_path / "aligned")
    assert not (tmp_path / "aligned").exists()


def test_half_precision_comes_back_too(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_small", dtype=torch.bfloat16)
    aligned = align(AlignConfig(restarts=1), zoo, specification, ORIGIN, tmp_path / "aligned")
    assert content(unalign(aligned, ORIGIN, tmp_path / "back")) == content(zoo)


def test_held_out_networks_decide_nothing(tmp_path):
    both, _, specification, _ = make(tmp_path / "both", "cnn_small", n=6, held_out=2)
    few, *_ = make(tmp_path / "few", "cnn_small", n=6, held_out=2, order=[0, 1, 2, 3])
    one = align(AlignConfig(), both, specification, ORIGIN, tmp_path / "one")
    other = align(AlignConfig(), few, specification, ORIGIN, tmp_path / "other")
    assert content(one).items() >= content(other).items()
    assert {entry.split for entry in one.entries} == {"train", "heldout"}


def test_the_order_of_the_zoo_does_not_matter(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_digits")
    mixed, *_ = make(tmp_path / "mixed", "cnn_digits", order=[4, 2, 5, 0, 3, 1])
    for to in ("universe", "medoid"):
        config = AlignConfig(to=to, restarts=2)
        one = align(config, zoo, specification, ORIGIN, tmp_path / f"one-{to}")
        other = align(config, mixed, specification, ORIGIN, tmp_path / f"other-{to}")
        assert {e.seed: e.sha256 for e in one.entries} == {e.seed: e.sha256 for e in other.entries}


def test_aligned_again_nothing_changes(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_digits")
    once = align(AlignConfig(), zoo, specification, ORIGIN, tmp_path / "once")
    twice = align(AlignConfig(), once, specification, ORIGIN, tmp_path / "twice")
    assert content(twice) == content(once)


def test_to_a_network_of_the_zoo(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "gelu", noise=0.1)
    aligned = align(AlignConfig(to="net002-1"), zoo, specification, ORIGIN, tmp_path / "aligned")
    assert content(aligned)["net002-1"] == content(zoo)["net002-1"]
    assert read_alignment(aligned).reference == "net002-1"
    assert spread(aligned) < 0.2 * spread(zoo)
    with pytest.raises(ValueError, match="expected universe, medoid, or the last"):
        align(AlignConfig(to="nobody"), zoo, specification, ORIGIN, tmp_path / "other")
    with pytest.raises(ValueError, match="not of split train"):
        align(AlignConfig(to="net005-1"), zoo, specification, ORIGIN, tmp_path / "third")


def test_checkpoints_of_a_run_share_their_element(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_small", steps=3)
    aligned = align(AlignConfig(restarts=1), zoo, specification, ORIGIN, tmp_path / "aligned")
    rows = read_alignment(aligned).rows
    assert len(set(rows.values())) == 6
    assert all(rows[f"net{k:03d}-1"] == rows[f"net{k:03d}-2"] == rows[f"net{k:03d}-3"] for k in range(6))
    for k in range(6):  # the earlier ones are 0.9 of the last, before and after
        first, last = (aligned.load(aligned.entry(f"net{k:03d}-{step}")) for step in (1, 3))
        for name in first:
            torch.testing.assert_close(first[name], 0.9 * last[name], rtol=1e-5, atol=1e-7)
    assert content(unalign(aligned, ORIGIN, tmp_path / "back")) == content(zoo)


def test_generated_networks_are_runs_of_their_own(tmp_path):
    zoo, *_ = make(tmp_path / "zoo", "relu")
    entries = [entry.model_copy(update={"seed": 0, "step": 0, "split": "generated"}) for entry in zoo.entries]
    assert [len(members) for members in runs(entries)] == [1] * 6


def test_interrupted_it_continues_to_the_same_bytes(tmp_path, monkeypatch):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_small")
    config = AlignConfig(restarts=1)
    whole = align(config, zoo, specification, ORIGIN, tmp_path / "whole")
    real, calls = align_module._add, []

    def fails(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(real(*args))

    monkeypatch.setattr(align_module, "_add", fails)
    with pytest.raises(KeyboardInterrupt):
        align(config, zoo, specification, ORIGIN, tmp_path / "parts")
    monkeypatch.setattr(align_module, "_add", real)
    monkeypatch.setattr(align_module, "solve", None)  # what was solved is not solved again
    parts = align(config, zoo, specification, ORIGIN, tmp_path / "parts")
    files = {p.relative_to(whole.path): p.read_bytes() for p in whole.path.rglob("*") if p.is_file()}
    assert {p.relative_to(parts.path): p.read_bytes() for p in parts.path.rglob("*") if p.is_file()} == files
    again = align(config, zoo, specification, ORIGIN, tmp_path / "parts")
    assert again.sha256 == whole.sha256
    with pytest.raises(ValueError, match="holds another zoo"):
        align(AlignConfig(restarts=2), zoo, specification, ORIGIN, tmp_path / "parts")


def test_what_a_kill_leaves_is_gone_and_others_may_read_the_rest(tmp_path, monkeypatch):
    zoo, _, specification, _ = make(tmp_path / "zoo", "relu", n=3)
    place = tmp_path / "aligned"
    with monkeypatch.context() as patch:
        patch.setattr(align_module, "_add", None)
        with pytest.raises(TypeError):
            align(AlignConfig(restarts=1), zoo, specification, ORIGIN, place)
    (place / "checkpoints").mkdir(exist_ok=True)
    (place / "checkpoints" / ".tmpAb12Cd").write_bytes(b"half")  # as safetensors calls it
    aligned = align(AlignConfig(restarts=1), zoo, specification, ORIGIN, place)
    assert list(aligned.path.rglob(".*")) == []
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in aligned.path.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


def test_what_is_damaged_or_not_aligned_is_told(tmp_path):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_small")
    with pytest.raises(MissingData, match="is not aligned"):
        unalign(zoo, ORIGIN, tmp_path / "back")
    aligned = align(AlignConfig(restarts=1), zoo, specification, ORIGIN, tmp_path / "aligned")
    bits = aligned.path / "alignment" / "bits-00000.safetensors"
    data = bytearray(bits.read_bytes())
    data[-1] ^= 1
    bits.write_bytes(bytes(data))
    with pytest.raises(Corrupt, match="does not lead back"):
        unalign(Zoo.open(aligned.path), ORIGIN, tmp_path / "back")
    with pytest.raises(Corrupt, match="says nothing of net000-1"):
        forget(aligned, tmp_path / "forgetful")
    with pytest.raises(ValueError, match="no symmetries"):
        align(AlignConfig(), zoo, specification.without(specification.groups), ORIGIN, tmp_path / "none")
    with pytest.raises(ValueError, match="training images"):
        align(AlignConfig(match="both"), zoo, specification, ORIGIN, tmp_path / "none2")


@pytest.mark.parametrize(
    ("name", "by"),
    [("cnn_small", "activations"), ("cnn_digits", "activations"), ("tanh", "activations"), ("vit", "both")],
)
def test_activations_find_what_was_planted(tmp_path, name, by):
    """Without noise, what units answer tells which is which."""
    zoo, network, specification, inputs = make(tmp_path / "zoo", name, noise=0.0)
    inputs = torch.randn((16, *inputs.shape[1:]), generator=torch.Generator().manual_seed(0))
    record = recorder(network, lambda model, weights: model.load_state_dict(weights), specification, inputs)
    aligned = align(AlignConfig(match=by, restarts=1), zoo, specification, ORIGIN, tmp_path / "aligned", record)
    assert spread(aligned) < 1e-4 * spread(zoo)
    assert content(unalign(aligned, ORIGIN, tmp_path / "back")) == content(zoo)


def test_a_zoo_too_large_for_memory_is_read_again_and_aligned_alike(tmp_path, monkeypatch):
    zoo, _, specification, _ = make(tmp_path / "zoo", "cnn_small")
    config = AlignConfig(restarts=1)
    kept = align(config, zoo, specification, ORIGIN, tmp_path / "kept")
    from zoo.derive import alignment

    monkeypatch.setattr(alignment, "KEPT_VALUES", 0)
    monkeypatch.setattr(alignment, "READ_VALUES", 1)
    read = align(config, zoo, specification, ORIGIN, tmp_path / "read")
    assert content(read) == content(kept)


def test_refined_on_images_it_still_goes_back(tmp_path):
    zoo, network, specification, _ = make(tmp_path / "zoo", "relu", noise=1.0)
    inputs = torch.randn((300, 12), generator=torch.Generator().manual_seed(0))
    network.load_state_dict(zoo.load(zoo.entries[0]))
    labels = network(inputs).argmax(1)

    def loss(weights, x, y):
        return torch.nn.functional.cross_entropy(torch.func.functional_call(network, weights, (x,)), y)

    images = Images(loss, lambda first: repeat((inputs[:200], labels[:200])), (inputs[200:], labels[200:]))
    config = AlignConfig(restarts=1, refine=Refinement(steps=40))
    aligned = align(config, zoo, specification, ORIGIN, tmp_path / "aligned", images=images)
    about = read_alignment(aligned)
    before, after = about.refined
    assert before > 0
    assert after > 0
    plain = read_alignment(align(AlignConfig(restarts=1), zoo, specification, ORIGIN, tmp_path / "plain"))
    assert about.shares[:-1] == plain.shares  # and one more, of the networks as they are now
    again = read_alignment(align(AlignConfig(restarts=1), aligned, specification, ORIGIN, tmp_path / "again"))
    assert again.before == pytest.approx(about.shares[-1], rel=1e-4)
    assert content(unalign(aligned, ORIGIN, tmp_path / "back")) == content(zoo)
    with pytest.raises(ValueError, match="refine needs training images"):
        align(config, zoo, specification, ORIGIN, tmp_path / "none")
