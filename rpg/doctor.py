"""What this machine has and lacks for the toolkit: versions, devices, extras, disk, data."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rpg.methods.rpg.models.kernels import has_fast_scan
from zoo import cuda
from zoo.networks.detectron import INSTALL

PACKAGE = "rpg-zoo"
SUBSTITUTES = {
    "onedl-mmsegmentation": ("mmsegmentation",),
    "onedl-mmcv": ("mmcv-lite", "mmcv"),
    "onedl-mmengine": ("mmengine",),
}
"""Packages with the same modules as one that an extra names, which do as well."""
INSTALLS = {  # extras that `pip install` alone would not, or not well
    "det": INSTALL,
    "mamba": f"MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation '{PACKAGE}[mamba]'",
}
REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)[^;]*(?:;.*extra == ['\"](?P<extra>[^'\"]+)['\"])?")


def examine() -> dict[str, Any]:
    """Everything as one JSON-ready object. `problems` lists what keeps the core from working; it is empty on a sound
    machine.
    """
    groups: dict[str, dict[str, str | None]] = {}
    for requirement in metadata.requires(PACKAGE) or []:
        match = REQUIREMENT.match(requirement)
        assert match
        name, version = _present(match["name"])
        groups.setdefault(match["extra"] or "core", {})[name] = version
    if "det" in groups:
        groups["det"]["detectron2"] = _version("detectron2")  # which no extra can name, as it is not on PyPI
    core = groups.pop("core")
    gpus = cuda.names()
    data_root = os.environ.get("RPG_DATA")
    problems = [f"{name} is not installed; `pip install {name}`" for name, version in core.items() if version is None]
    if data_root and not Path(data_root).is_dir():
        problems.append(f"RPG_DATA is {data_root}, which is not a directory")
    return {
        "rpg-zoo": metadata.version(PACKAGE),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "core": core,
        "extras": groups,
        "threads": torch.get_num_threads(),
        "cuda": gpus,
        "bfloat16": cuda.computes_in_bfloat16(torch.device("cuda" if gpus else "cpu")),
        "fast_scan": has_fast_scan(),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "data_root": data_root,
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"),
        "problems": problems,
    }


def describe(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"rpg-zoo {found['rpg-zoo']} on Python {found['python']}, {found['platform']}",
        f"devices: cpu with {found['threads']} threads"
        + "".join(f", {name}" for name in found["cuda"])
        + ("" if found["bfloat16"] else "; bfloat16 is imitated (slow): --set method.train.precision=float32"),
        "RPG's scan on CUDA: "
        + ("kernels of mamba-ssm" if found["fast_scan"] else "in PyTorch (kernels: extra [mamba])"),
        f"free disk here: {found['free_disk_gib']} GiB",
        f"data: {found['data_root'] or 'from the Hub (set RPG_DATA or --data-root for local copies)'}"
        + (", but the Hub is switched off by HF_HUB_OFFLINE" if found["hub_offline"] else ""),
        "core: " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["core"].items()),
    ]
    for extra, packages in found["extras"].items():
        absent = [name for name, version in packages.items() if version is None]
        found_here = [f"{name} {version}" for name, version in packages.items() if version is not None]
        if absent:
            line = INSTALLS.get(extra, f"pip install '{PACKAGE}[{extra}]'")
            found_here.append(f"lacks {', '.join(absent)}; `{line}`")
        lines.append(f"extra [{extra}]: {', '.join(found_here)}")
    return "\n".join(lines + [f"PROBLEM: {problem}" for problem in found["problems"]])


def _present(name: str) -> tuple[str, str | None]:
    """The package, or what is here in its place, and its version; None if there is neither."""
    for other in (name, *SUBSTITUTES.get(name, ())):
        if version := _version(other):
            return other, version
    return name, None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
