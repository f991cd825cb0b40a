"""Collecting on a Ray cluster of two nodes (on this machine), one of which is killed half-way."""

import threading
import time

import pytest
from test_engines import SEEDS, collect_here, content, plan

from zoo.training.engines import collect_all
from zoo.training.workers import RayPool

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    """A head and a second node with a CPU each; nothing but this machine is involved."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Read when ray is imported: addresses are those of the loopback device, which is all that a sandbox may have.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 0, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
    made = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    made.second = made.add_node(**node)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


class Pool(RayPool):
    """A pool that counts the workers it started."""

    started = 0

    def start(self, index):
        self.started += 1
        return super().start(index)


def test_a_node_that_is_killed_costs_nothing(tmp_path, cluster):
    expected = collect_here(tmp_path / "whole", SEEDS)
    journal = tmp_path / "zoo" / "journal.jsonl"
    killed = []

    def kill_a_node():
        while not journal.is_file() or journal.read_bytes().count(b'"id"') < 2:
            time.sleep(0.01)
        cluster.remove_node(cluster.second, allow_graceful=False)
        killed.append(journal.read_bytes().count(b'"id"'))

    thread = threading.Thread(target=kill_a_node)
    thread.start()
    with Pool(None, None, "auto") as pool:
        assert pool.size == 2
        collect_all([plan(tmp_path / "zoo", SEEDS)], pool)
    thread.join()
    assert killed[0] < 6
    assert pool.started > 2
    assert content(tmp_path / "zoo") == expected
