"""Foreign weights: containers and prefixes are taken off, all tensors have to fit, and stand-ins run nothing."""

import argparse
import collections
import datetime
import enum
import os
import pathlib
import pickle
import subprocess
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.errors import Corrupt, MissingData
from zoo.formats.inert import load_pickle
from zoo.formats.weights import CONTAINERS, fitted, read
from zoo.networks.classifiers import create_network
from zoo.structure import Structure

NET = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
STRUCTURE = Structure.of(NET.state_dict())


def state(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(t.shape, generator=generator) if t.is_floating_point() else t.clone()
        for name, t in NET.state_dict().items()
    }


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state().items()}


class Settings:
    """A class of the user's own."""

    def __init__(self) -> None:
        self.rate, self.best = 0.1, np.float64(0.9)


class Mode(enum.Enum):
    FAST = "fast"
    FAST_AND_SMALL = ("fast", 3)


class Bits(enum.IntFlag):
    ONE, TWO = 1, 2


def fit(path: Path, **options: object) -> dict[str, Tensor]:
    return fitted(read(path).tensors, STRUCTURE, "it", **options).tensors  # type: ignore[arg-type]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], t) for name, t in expected.items())


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "x.ckpt", "x.th", "x.pth.tar", "x.PTH"])
def test_the_endings_of_pickles(tmp_path: Path, name: str) -> None:
    torch.save(state(), tmp_path / name)
    assert same(fit(tmp_path / name), state())


@pytest.mark.parametrize("keys", [*[(key,) for key in CONTAINERS], ("state", "x"), ("model", "state_dict"), ()])
def test_containers(tmp_path: Path, keys: tuple[str, ...]) -> None:
    content: object = state()
    for key in reversed(keys):
        content = {"epoch": 3, key: content, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save(content, tmp_path / "x.pth")
    if keys == ("state", "x"):
        with pytest.raises(ValueError, match=r"holds a dict of epoch, state, optimizer; expected a state dict"):
            read(tmp_path / "x.pth")
    else:
        assert same(fit(tmp_path / "x.pth"), state())
        assert read(tmp_path / "x.pth").key == ".".join(keys)


def test_of_several_networks_it_is_said_which_was_taken(tmp_path: Path) -> None:
    torch.save({"state_dict_ema": state(1), "state_dict": state(0)}, tmp_path / "x.pth")
    assert same(fit(tmp_path / "x.pth"), state(0))
    assert read(tmp_path / "x.pth").note == "state_dict was taken, not state_dict_ema"
    torch.save({"params": {}, "params_ema": state(1)}, tmp_path / "x.pth")
    assert (read(tmp_path / "x.pth").key, read(tmp_path / "x.pth").note) == ("params_ema", None)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.", "module.model.", "backbone."],
)
def test_prefixes(tmp_path: Path, prefix: str) -> None:
    save_file(prefixed(prefix), tmp_path / "x.safetensors")
    assert same(fit(tmp_path / "x.safetensors"), state())


def test_prefixes_within_and_beside(tmp_path: Path) -> None:
    within = {
        name.replace("0.", "0._orig_mod.", 1) if name.startswith("0.") else name: t for name, t in state().items()
    }
    torch.save(within, tmp_path / "x.pth")
    assert same(fit(tmp_path / "x.pth"), state())
    torch.save({"n_averaged": torch.tensor(7)} | prefixed("module."), tmp_path / "x.pth")
    assert same(fit(tmp_path / "x.pth"), state())
    # a network whose own names begin so keeps them
    own = {f"module.{name}": tensor for name, tensor in state().items()} | {"head.weight": torch.ones(2, 2)}
    for given in (own, {f"module.{name}": tensor for name, tensor in own.items()}):
        assert same(fitted(given, Structure.of(own), "it").tensors, own)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("2.bias"), "missing: 2.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra"),
        (lambda s: [s.pop(name) for name in list(s) if name.startswith("0.")], "missing: 0.weight, 0.bias"),
        (lambda s: s.update({"2.weight": torch.ones(5, 4)}), r"2.weight should be \[2, 4\], found \[5, 4\]"),
        (lambda s: s.update({"2.weight": torch.ones(2, 4).long()}), "2.weight is int64, expected float32"),
        (lambda s: s.update({"2.weight": torch.ones(2, 4).double()}), "2.weight is float64, .*--cast converts it"),
    ],
)
def test_all_of_it_has_to_fit(tmp_path: Path, change: object, said: str) -> None:
    content = state()
    change(content)  # type: ignore[operator]
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=said) as error:
        fit(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


def test_a_prefix_that_would_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"missing: .*; unexpected: .*; its tensors with the prefix 'student\.' would"):
        fitted(prefixed("student.") | prefixed("other."), STRUCTURE, "it")


def test_counters_and_16_bits_and_casts(tmp_path: Path) -> None:
    counterless = {name: t for name, t in state().items() if "num_batches" not in name}
    found = fitted(counterless, STRUCTURE, "it")
    assert same(found.tensors, state())
    assert "counters" in found.notes[0]
    assert same(fitted(state(), Structure.of(counterless), "it").tensors, counterless)
    for dtype in (torch.float16, torch.bfloat16):
        small = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state().items()}
        found = fitted(small, STRUCTURE, "it")
        assert same(found.tensors, {n: t.float() if t.is_floating_point() else t for n, t in small.items()})
        assert found.notes == (f"{str(dtype)[6:]} became float32",)
    double = {name: t.double() if t.is_floating_point() else t for name, t in state().items()}
    assert same(fitted(double, STRUCTURE, "it", cast=True).tensors, state())
    with pytest.raises(ValueError, match="too large for float32"):
        fitted(double | {"0.bias": torch.full((4,), 1e300, dtype=torch.float64)}, STRUCTURE, "it", cast=True)


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(model="x", rates=[0.1]),
        types.SimpleNamespace(a=1),
        np.float64(0.93),
        np.int32(3),
        np.array([[120, 120, 120], [6, 230, 230]]),
        {"state": np.random.RandomState(0).get_state()},
        Path("/a/b"),
        pathlib.PureWindowsPath("c:/x"),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
        collections.defaultdict(list, {"a": [1]}),
        collections.deque([1, 2]),
        collections.OrderedDict(a=1),
        {1, 2},
        frozenset([1]),
        Settings(),
        Mode.FAST,
        [Mode.FAST, Mode.FAST_AND_SMALL, Mode.FAST],
        Bits.ONE | Bits.TWO,
        b"bytes",
        bytearray(b"bytes"),
        [10**30, "args", "model", "a" * 300, "\ud800"],
        nn.Linear(2, 2),
        torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1).state_dict(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_lies_beside_the_weights_becomes_inert(
    tmp_path: Path, beside: object, archive: bool, protocol: int
) -> None:
    if isinstance(beside, nn.Module) and not archive:
        pytest.skip("the old format keeps the source of modules, which torch does not read")
    content = {"model": state(), "args": beside, "epoch": 4}
    torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
    assert same(fit(tmp_path / "x.pth"), state())


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_the_same_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    """Texts that are used again as names of globals and of tensors, numbers of any size, nested containers."""
    names = ["torch._utils", "_rebuild_tensor_v2", "storage", "cpu", "names", "é" * 70_000]
    plain = {"names": names, "again": tuple(names), "numbers": [0, -1, 2**31, 2**63, -(10**30), 0.5], "none": None}
    plain |= {"bytes": b"\x00\xff" * 200, "nested": {"a": [{"b": (True, False)}] * 3}, "dtype": torch.float16}
    torch.save({"plain": plain, "model": state()}, tmp_path / "x.pth", pickle_protocol=protocol)
    found = load_pickle(tmp_path / "x.pth")
    assert isinstance(found, dict)
    assert found["plain"] == plain
    assert same(found["model"], state())


def test_texts_that_unfold_are_refused(tmp_path: Path) -> None:
    """A long text that is used many times: each time it would be written out."""
    torch.save(["x" * 100_000] * 3, tmp_path / "x.pth", pickle_protocol=4)
    bomb = pickle.dumps(["x" * 100_000] * 1000, 4).replace(b"h\x01", b"h\x01" * 50)
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as new, zipfile.ZipFile(tmp_path / "x.pth") as old:
        for part in old.infolist():
            new.writestr(part.filename, bomb if part.filename.endswith("data.pkl") else old.read(part))
    assert load_pickle(tmp_path / "x.pth")
    with pytest.raises(Corrupt, match="unfold"):
        load_pickle(tmp_path / "y.pth")


def test_buffers_of_mmengine_become_inert(tmp_path: Path) -> None:
    buffer = pytest.importorskip("mmengine.logging").HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({"meta": {}, "state_dict": state(), "message_hub": {"loss": buffer}}, tmp_path / "x.pth")
    assert same(fit(tmp_path / "x.pth"), state())


class Calls:
    """A pickle that makes a call when it is read."""

    def __init__(self, function: object, *given: object) -> None:
        self.call = (function, given)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "evil",
    [
        Calls(os.mkdir, "ran-code"),
        Calls(eval, "__import__('os').mkdir('ran-code')"),
        Calls(getattr, os, "mkdir"),
        Calls(Calls(getattr, os, "mkdir"), "ran-code"),
        Calls(pickle.loads, b"x"),
        Calls(Settings),
        Calls(__import__, "os"),
        Calls(print, "x"),
        Calls(subprocess.Popen, "mkdir ran-code"),
        Calls(Settings, [1]),
        Calls(Settings, 1, 2),
    ],
    ids=lambda evil: getattr(evil.call[0], "__name__", "call"),
)
def test_what_wants_a_call_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: object, protocol: int, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": state(), "x": evil}
    for archive in (True, False):
        try:
            torch.save(content, "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
        except (pickle.PicklingError, TypeError):
            Path("x.pth").write_bytes(pickle.dumps(state(), 4))
        with pytest.raises(Corrupt, match=r"it wants|damaged"):
            load_pickle(Path("x.pth"))
    assert os.listdir() == ["x.pth"]  # noqa: PTH208
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("part", ["data.pkl", "data/0"])
def test_values_that_changed_on_the_disk_are_found(tmp_path: Path, part: str) -> None:
    torch.save({"0.weight": torch.arange(1000.0)}, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth").tensors["0.weight"][7] == 7
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        place = archive.read(f"x/{part}")
    data = (tmp_path / "x.pth").read_bytes()
    at = data.index(place) + len(place) // 2
    (tmp_path / "x.pth").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(Corrupt, match=rf"damaged: Bad CRC-32 for file 'x/{part}'"):
        read(tmp_path / "x.pth")


def test_without_checksums_files_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(fit(tmp_path / "x.pth"), state())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("a", torch.eye(3).to_sparse(), "'a' is of layout sparse_coo"),
        ("a", torch.empty(3, device="meta"), "'a' is without values"),
        ("a", torch.ones(1).expand(9), "'a' is a view that repeats values"),
        ("a", None, "'a' is NoneType"),
        ("a", 3, "'a' is int"),
        (7, torch.ones(1), "'7' is under a key of type int, not under a name"),
    ],
)
def test_what_is_no_dense_tensor_is_named(tmp_path: Path, name: object, value: object, said: str) -> None:
    torch.save(state() | {name: value}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a page of HTML"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_a_file_is_instead(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Corrupt, match=said):
        read(tmp_path / name)


def test_whole_modules_and_torchscript_are_named(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.save({"model": NET}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"holds under 'model' an object of torch.nn.*Sequential; save its state_dict"):
        read(tmp_path / "x.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Linear(3, 4), torch.zeros(1, 3)).save(str(tmp_path / "x.pt"))
    recwarn.clear()
    with pytest.raises(Corrupt, match="a TorchScript archive; save its state_dict"):
        read(tmp_path / "x.pt")
    assert not recwarn.list


# task.pretrained


def resnet(classes: int = 10) -> dict[str, Tensor]:
    network = create_network("test_resnet", classes, 3, seed=5)
    return {name: tensor + 1 for name, tensor in network.state_dict().items()}


def start(path: Path) -> dict[str, Tensor]:
    return dict(create_network("test_resnet", 10, 3, seed=0, pretrained=str(path)).state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "model.module."])
@pytest.mark.parametrize("classes", [10, 1000, 0])
def test_pretrained_weights_are_loaded_whole(
    tmp_path: Path, prefix: str, classes: int, caplog: pytest.LogCaptureFixture
) -> None:
    given = resnet(classes)
    torch.save({"state_dict": {prefix + n: t for n, t in given.items()}, "epoch": 1}, tmp_path / "x.ckpt")
    with caplog.at_level("INFO", logger="zoo"):
        found = start(tmp_path / "x.ckpt")
    fresh = create_network("test_resnet", 10, 3, seed=0).state_dict()
    for name, tensor in found.items():
        own = not name.startswith("fc.") or classes == 10
        assert torch.equal(tensor, given[name] if own else fresh[name]), name
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert said == {"model.": ["names without 'model.'"], "model.module.": ["names without 'model.module.'"]}.get(
        prefix, []
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {n: t for n, t in s.items() if not n.startswith(("fc", "layer3", "layer4"))}, "missing: layer3"),
        (lambda s: {n: t for n, t in s.items() if n != "fc.bias"}, "missing: fc.bias"),
        (lambda s: s | {"layer9.weight": torch.ones(2)}, "unexpected: layer9.weight"),
        (lambda s: {f"student.{n}": t for n, t in s.items()}, r"with the prefix 'student\.' would fit"),
        (lambda s: create_network("test_vit", 0, 3, seed=0).state_dict(), "missing: conv1.*unexpected: "),
    ],
)
def test_other_pretrained_weights_are_refused(tmp_path: Path, change: object, said: str) -> None:
    torch.save(change(resnet()), tmp_path / "x.pth")  # type: ignore[operator]
    with pytest.raises(ValueError, match=said) as error:
        start(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


def test_pretrained_weights_of_another_image_size_are_converted(tmp_path: Path) -> None:
    size = create_network("test_vit", 1000, 3, seed=1, image_size=64).state_dict()
    torch.save(size, tmp_path / "x.pth")
    found = create_network("test_vit", 10, 3, seed=0, image_size=32, pretrained=str(tmp_path / "x.pth")).state_dict()
    for name, tensor in found.items():
        if "head" not in name:
            assert torch.equal(tensor, size[name]) == (name != "pos_embed")
    with pytest.raises(MissingData, match="no weights at"):
        create_network("test_vit", 10, 3, seed=0, pretrained=str(tmp_path))
