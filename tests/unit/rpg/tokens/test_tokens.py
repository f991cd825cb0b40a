import resource

import numpy as np
import pytest
import torch

from rpg.tokens.files import gather, open_tokens, write_tokens
from rpg.tokens.layout import Layout
from zoo.errors import Corrupt, Failed
from zoo.structure import Structure


def network(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(5, 7, generator=rng),
        "norm.running_var": torch.rand(6, generator=rng),
        "half": torch.randn(9, generator=rng).half(),
        "steps": torch.tensor(seed),
    }


ZOO = [network(seed) for seed in range(5)]


@pytest.fixture
def layout() -> Layout:
    return Layout.fit(Structure.of(ZOO[0]), lambda: ZOO, token_size=8)


def test_gathered_rows_are_those_of_each_encoded_checkpoint(layout, tmp_path):
    write_tokens(tmp_path / "tokens.npy", layout, iter(ZOO), len(ZOO))
    tokens = open_tokens(tmp_path / "tokens.npy", layout, len(ZOO))
    expected = torch.stack([layout.encode(weights) for weights in ZOO])
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "tokens.npy"), expected)
    rng = torch.Generator().manual_seed(0)
    checkpoint = torch.randint(len(ZOO), (50,), generator=rng)
    token = torch.randint(layout.num_tokens, (50,), generator=rng)
    rows = gather(tokens, checkpoint, token)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, expected[checkpoint, token])
    rows.zero_()  # a copy: the file is read-only and stays as it is
    np.testing.assert_array_equal(tokens, expected)


def test_only_the_rows_asked_for_are_read(layout, tmp_path):
    """A file larger than any memory: its size is set, its blocks are not there, and only one row is written."""
    count = 2**38 // (layout.num_tokens * layout.token_size * 4)
    path = tmp_path / "tokens.npy"
    tokens = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(count, layout.num_tokens, layout.token_size)
    )
    tokens[count - 1, 3] = np.arange(8)
    del tokens
    if path.stat().st_blocks * 512 > 2**24:
        pytest.skip("this file system has no sparse files")
    rows = gather(open_tokens(path, layout, count), torch.tensor([count - 1, 0]), torch.tensor([3, 1]))
    assert rows.tolist() == [list(range(8)), [0] * 8]


def test_files_of_another_zoo_or_layout_are_refused(layout, tmp_path):
    path = tmp_path / "tokens.npy"
    write_tokens(path, layout, ZOO, len(ZOO))
    with pytest.raises(Corrupt, match=r"holds float32\(5, 8, 8\), expected float32\(4, 8, 8\)"):
        open_tokens(path, layout, 4)
    wider = Layout.fit(layout.structure, lambda: ZOO, token_size=16)
    with pytest.raises(Corrupt, match=r"expected float32\(5, 5, 16\)"):
        open_tokens(path, wider, 5)
    np.save(path, np.zeros((5, layout.num_tokens, 8)))
    with pytest.raises(Corrupt, match="holds float64"):
        open_tokens(path, layout, 5)


def test_damaged_files_are_refused(layout, tmp_path):
    path = tmp_path / "tokens.npy"
    with pytest.raises(Corrupt, match="cannot be read"):
        open_tokens(path, layout, len(ZOO))
    write_tokens(path, layout, ZOO, len(ZOO))
    data = path.read_bytes()
    for length in (0, 5, 60, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(Corrupt, match="cannot be read"):
            open_tokens(path, layout, len(ZOO))
    path.write_bytes(data + b"x")
    with pytest.raises(Corrupt, match=f"{len(data) + 1} bytes long"):
        open_tokens(path, layout, len(ZOO))


def test_every_damaged_header_byte_is_noticed_or_harmless(layout, tmp_path):
    path = tmp_path / "tokens.npy"
    write_tokens(path, layout, ZOO, len(ZOO))
    data = path.read_bytes()
    expected = np.load(path)
    for at in range(128):
        for flip in (0x01, 0x08, 0x20, 0x80):
            path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            try:
                found = open_tokens(path, layout, len(ZOO))
            except Corrupt:
                continue
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("older", [None, b"older"])
def test_an_interrupted_write_leaves_what_was_there(layout, tmp_path, older):
    path = tmp_path / "tokens.npy"
    if older is not None:
        path.write_bytes(older)

    def interrupted():
        yield from ZOO[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(path, layout, interrupted(), len(ZOO))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if older is None else [older])


@pytest.mark.parametrize("given", [0, 4, 6])
def test_another_number_of_checkpoints_is_refused(layout, tmp_path, given):
    zoo = (network(seed) for seed in range(given))
    with pytest.raises(ValueError, match=f"found {given} checkpoints .* where 5 were announced"):
        write_tokens(tmp_path / "tokens.npy", layout, zoo, 5)
    assert not list(tmp_path.iterdir())


def test_a_write_that_the_disk_refuses_is_one_line(layout, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Failed, match=r"cannot write .*tokens\.npy"):
            write_tokens(tmp_path / "tokens.npy", layout, ZOO, len(ZOO))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
