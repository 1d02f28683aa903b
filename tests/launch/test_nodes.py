"""Nodes made of network namespaces, and the demo recipe's RL on two of them: rollouts on the second, faults between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bench.faults import Trial, calm, checked, cut_the_ranks, disturbed, fresh, on_the_cluster, ranks_apart
from bench.nodes import LOCKS, Node, names, open_cluster, open_nodes

from thinkery.errors import EnvironmentLacks

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def allowed():
    """Skip where namespaces are not."""
    try:
        with open_nodes(1):
            pass
    except EnvironmentLacks as lacks:
        pytest.skip(str(lacks))


def answers(node: Node, other: Node) -> bool:
    """Whether one node reaches another: a connection refused is an answer too."""
    code = f"import socket; socket.create_connection(('{other.address}', 9), 1)"
    with node.popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as asking:
        return b"ConnectionRefusedError" in asking.communicate()[1]


def test_nodes_see_each_other_until_the_cable_is_pulled_and_nothing_of_them_is_left():
    with open_nodes(2) as (one, two):
        assert answers(one, two)
        two.cut()
        assert not answers(one, two)
        two.mend()
        assert answers(one, two)
        sleeping = two.popen(["sleep", "1000"])
        two.kill()
        assert sleeping.wait(10) == -signal.SIGKILL
        running = one.popen(["sleep", "1000"])
        own = one.name.rpartition("-")[0]
        assert [name for name in names() if name.startswith(own)] != []
    assert running.wait(10) == -signal.SIGKILL
    assert [name for name in names() if name.startswith(own)] == []


def test_what_a_killed_process_leaves_the_next_one_removes():
    code = "import time, bench.nodes as b\nwith b.open_nodes(1): print('open', flush=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ)) as opening:
        assert opening.stdout
        assert opening.stdout.readline() == b"open\n"
        left = [name for name in names() if f"-{opening.pid}-" in name]
        assert len(left) == 2, "a node and the bridge"
        opening.kill()
    with open_nodes(1):
        assert not set(left) & set(names())
        assert not (LOCKS / left[0].rpartition("-")[0]).exists()


@pytest.mark.timeout(900)
def test_rollouts_on_a_second_node_and_ranks_on_two_survive_a_cut_network_bit_for_bit(tmp_path: Path):
    with open_cluster() as nodes:
        calm(tmp_path, nodes)
        undisturbed = Trial(fresh(tmp_path / "cluster", tmp_path / "base"), nodes, random.Random(1))
        on_the_cluster(undisturbed)
        undisturbed.start()
        assert undisturbed.end() == [0]
        assert checked(undisturbed.folder, tmp_path / "calm-1") == {"record_complete": True, "weights_equal": True}

        apart = Trial(fresh(tmp_path / "apart", tmp_path / "base"), nodes, random.Random(1))
        found = disturbed(apart, ranks_apart, cut_the_ranks)
        assert (found["ended"], found["codes"]) == ("stopped", [75])
        assert checked(apart.folder, tmp_path / "calm-2") == {"record_complete": True, "weights_equal": True}
        said = (apart.folder / "said.txt").read_text()
        assert "rank 0 has given no sign of life for 6 s" in said
        assert "rank 1 has given no sign of life for 6 s" in said
