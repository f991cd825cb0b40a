"""mamba-ssm's kernels load without its Mamba-1 extension, from a made-up installation; without one there is None."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rpg.methods.rpg.models.kernels import fast_scan

KERNEL = """
def mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size):
    assert B.shape == C.shape and B.dim() == 4 and B.shape[2] == 1
    return x * chunk_size
"""


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed mamba_ssm whose own import fails, as it does where `selective_scan_cuda` was not built."""
    triton = tmp_path / "mamba_ssm" / "ops" / "triton"
    triton.mkdir(parents=True)
    for folder in (triton, triton.parent):
        (folder / "__init__.py").touch()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("import selective_scan_cuda")
    (triton / "ssd_combined.py").write_text(KERNEL)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)
    fast_scan.cache_clear()
    yield tmp_path
    fast_scan.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]


def test_kernels_load_without_the_extension_of_mamba_1(installation: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="selective_scan_cuda"):
        __import__("mamba_ssm")
    scan = fast_scan()
    assert scan is not None
    x = torch.ones(1, 2, 3, 4)
    assert torch.equal(scan(x, x[..., 0], -x[0, 0, :, 0], torch.ones(1, 2, 5), torch.ones(1, 2, 5)), 256 * x)
    assert "mamba_ssm" not in sys.modules  # whoever wants all of it gets its own error


def test_a_broken_installation_falls_back(installation: Path) -> None:
    (installation / "mamba_ssm" / "ops" / "triton" / "ssd_combined.py").write_text("import einopz")
    assert fast_scan() is None


def test_without_mamba_ssm_there_are_no_kernels(installation: Path) -> None:
    (installation / "mamba_ssm").rename(installation / "elsewhere")
    assert fast_scan() is None
