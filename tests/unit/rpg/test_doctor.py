"""`rpg doctor` lists every extra with the versions that are here and the install line for what is not."""

from __future__ import annotations

from importlib import metadata

import pytest

from rpg.doctor import describe, examine
from zoo.networks.detectron import INSTALL


def test_extras_are_listed_with_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.15.0", "bitsandbytes": "0.50.2"}
    requirements = ["torch>=2.6", "bitsandbytes>=0.46; extra == 'opt'", "tensorboard>=2.14; extra == 'track'"]
    requirements.append("mamba-ssm>=2.2; extra == 'mamba'")

    def version(name: str) -> str:
        if name in versions or name == "rpg-zoo":
            return versions.get(name, "0.1.0")
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", lambda _: requirements)
    monkeypatch.setattr("importlib.metadata.version", version)
    found = examine()
    assert found["extras"] == {
        "opt": {"bitsandbytes": "0.50.2"},
        "track": {"tensorboard": None},
        "mamba": {"mamba-ssm": None},
    }
    lines = describe(found).splitlines()
    assert "extra [opt]: bitsandbytes 0.50.2" in lines
    assert ("imitated" in lines[1]) == (not found["bfloat16"])
    skip = "MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation"  # which needs no compiler
    assert f"extra [mamba]: lacks mamba-ssm; `{skip} 'rpg-zoo[mamba]'`" in lines
    assert "extra [track]: lacks tensorboard; `pip install 'rpg-zoo[track]'`" in lines


def test_a_package_with_the_same_modules_is_listed_in_place_of_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions = {"rpg-zoo": "0.1.0", "torch": "2.14.1", "mmsegmentation": "1.2.2", "mmcv-lite": "2.1.0"}
    named = ("onedl-mmsegmentation>=1.4,<2", "onedl-mmcv>=2.3,<3", "onedl-mmengine>=0.10.12")

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(
        "importlib.metadata.requires", lambda _: ["torch>=2.6", *(f"{n}; extra == 'seg'" for n in named)]
    )
    monkeypatch.setattr("importlib.metadata.version", version)
    found = examine()
    assert found["extras"] == {"seg": {"mmsegmentation": "1.2.2", "mmcv-lite": "2.1.0", "onedl-mmengine": None}}
    line = describe(found).splitlines()[-1]
    assert line.startswith("extra [seg]: mmsegmentation 1.2.2, mmcv-lite 2.1.0, lacks onedl-mmengine; `pip install")
    versions |= {"onedl-mmsegmentation": "1.4.2", "onedl-mmcv": "2.3.6", "onedl-mmengine": "0.10.12"}
    assert "extra [seg]: onedl-mmsegmentation 1.4.2, onedl-mmcv 2.3.6, onedl-mmengine 0.10.12" in describe(examine())


def test_what_is_not_on_pypi_has_its_own_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"rpg-zoo": "0.1.0", "torch": "2.15.0", "pycocotools": "2.0.11"}

    def version(name: str) -> str:
        if name in there:
            return there[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["torch>=2.6", "pycocotools; extra == 'det'"])
    monkeypatch.setattr("importlib.metadata.version", version)
    assert f"extra [det]: pycocotools 2.0.11, lacks detectron2; `{INSTALL}`" in describe(examine()).splitlines()
    there["detectron2"] = "0.6"
    assert "extra [det]: pycocotools 2.0.11, detectron2 0.6" in describe(examine()).splitlines()


@pytest.mark.parametrize(("there", "line"), [(True, "kernels of mamba-ssm"), (False, "in PyTorch")])
def test_it_says_which_scan_runs_on_cuda(there: bool, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpg.doctor.has_fast_scan", lambda: there)
    assert any(said.startswith(f"RPG's scan on CUDA: {line}") for said in describe(examine()).splitlines())
