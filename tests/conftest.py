"""No network in tests (Hub libraries read this at import); hypothesis without its deadline, which on a shared machine
measures the neighbours; and hardly any time for measuring how fast the machine is, which each training begins with.
"""

import os
import sys

import pytest
from hypothesis import settings

from zoo import plugins

os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("rpg-zoo", deadline=None)
settings.load_profile("rpg-zoo")


@pytest.fixture(scope="session", autouse=True)
def little_is_measured():
    from hasty import measure_little  # imports torch, which the process that hands out the tests does not need

    measure_little()


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """An empty directory to work in; code that the test lets in or registers is forgotten after it."""
    modules = set(sys.modules)
    monkeypatch.setattr(plugins, "_let_in", {})
    monkeypatch.setattr(plugins, "_registered", {group: {} for group in plugins.NOUNS})
    monkeypatch.setattr(plugins, "_packages", {})
    plugins._offers.cache_clear()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    plugins._offers.cache_clear()
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
