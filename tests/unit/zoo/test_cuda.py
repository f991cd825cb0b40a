"""What is asked of CUDA: the answers for a CPU, and that a GPU's own are passed on (a made-up one)."""

from types import SimpleNamespace

import pytest
import torch

from zoo import cuda

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def made_up(monkeypatch):
    """Two GPUs; what they were told."""
    told = []
    answers = {
        "device_count": lambda: 2,
        "is_available": lambda: True,
        "get_device_name": lambda device: f"GPU {torch.device(device).index if device != 0 else 0}",
        "get_device_properties": lambda device: SimpleNamespace(total_memory=80 * 10**9),
        "is_bf16_supported": lambda including_emulation: including_emulation,
        "synchronize": lambda device=None: told.append(("synchronize", device)),
        "empty_cache": lambda: told.append("empty_cache"),
        "reset_peak_memory_stats": lambda device: told.append(("reset", device)),
        "max_memory_allocated": lambda device: 12345,
        "is_initialized": lambda: True,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return told


def test_a_gpu_answers_for_itself(made_up):
    assert cuda.names() == ["GPU 0", "GPU 1"]
    assert cuda.available()
    assert cuda.name_of(GPU) == "GPU 1"
    assert cuda.total_memory(GPU) == 80 * 10**9
    assert not cuda.computes_in_bfloat16(GPU)
    cuda.reset_peak(GPU)
    cuda.synchronise(GPU)
    cuda.synchronise_all()
    assert made_up == ["empty_cache", ("reset", GPU), ("synchronize", GPU), ("synchronize", None)]
    assert cuda.peak(GPU) == 12345


def test_a_cpu_has_answers_of_its_own(made_up):
    assert cuda.name_of(CPU) == "cpu"
    assert cuda.total_memory(CPU) is None
    cuda.reset_peak(CPU)
    cuda.synchronise(CPU)
    assert cuda.peak(CPU) is None
    assert made_up == []


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags : fpu avx2 avx512_bf16 amx_tile", True),
        ("Features : fp asimd bf16 i8mm", True),
        ("flags : fpu avx2 avx512f", False),
    ],
)
def test_linux_says_whether_a_cpu_computes_in_bfloat16(tmp_path, monkeypatch, flags, has):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(cuda, "CPUINFO", file)
    assert cuda.computes_in_bfloat16(CPU)  # where nothing says so
    file.write_text(f"processor : 0\n{flags}\n")
    assert cuda.computes_in_bfloat16(CPU) == has
