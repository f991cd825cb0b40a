"""Training that is stopped and resumed through a state file ends exactly where uninterrupted training ends."""

import pytest
import torch
from torch import nn

from zoo.errors import Corrupt
from zoo.training.state import pack_state, read_state, unpack_state, write_state


def setup(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    if kind == "sgd":
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def steps(model, optimizer, first, last):
    for step in range(first, last):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resumed_training_equals_uninterrupted(tmp_path, kind, stop):
    whole = setup(kind)
    steps(*whole, 0, 8)
    first = setup(kind)
    steps(*first, 0, stop)
    write_state(tmp_path / "state", pack_state(*first, stop))
    resumed = setup(kind)
    assert unpack_state(read_state(tmp_path / "state"), *resumed) == stop
    steps(*resumed, stop, 8)
    for name, tensor in whole[0].state_dict().items():
        assert torch.equal(resumed[0].state_dict()[name], tensor)


def test_a_changed_state_is_refused(tmp_path):
    write_state(tmp_path / "state", pack_state(*setup("sgd"), 3))
    data = bytearray((tmp_path / "state").read_bytes())
    data[-1] ^= 1
    (tmp_path / "state").write_bytes(data)
    with pytest.raises(Corrupt, match="has changed since it was written"):
        read_state(tmp_path / "state")
