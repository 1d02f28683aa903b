"""Two processes, started by torchrun, against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.train.conftest import tiny_network, tiny_tokenizer
from tests.train.ranked import train

from thinkery.errors import ConfigError, RankLost
from thinkery.model.hf import save_model
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.files import read_rows
from thinkery.pipeline.ranks import ALONE, Ranks
from thinkery.pipeline.run import Run
from thinkery.train.policy import PolicyConfig, open_policy
from thinkery.train.sequences import require_dealable
from thinkery.train.shards import rows_of
from thinkery.train.share import dealt

RANKED = Path(__file__).with_name("ranked.py")
WHOLE = ("sft/replicated", "sft/fsdp", "grpo/replicated", "grpo/fsdp")
AHEAD = ("ahead/replicated", "ahead/fsdp")
"""Sampled one rollout ahead by a process of each rank, with questions carried over."""
HOST = ("grpo/replicated+cpu", "grpo/fsdp+cpu", "sft/fsdp+cpu")
"""With the optimizer, or all parts, in the host's memory."""
SPLIT = ("grpo/fsdp+split", "sft/fsdp+split")
"""With a part of every sequence on each rank."""
TAUGHT = ("distill/replicated", "distill/fsdp", "distill/fsdp+split", "distant/replicated", "distant/fsdp")
"""By a teacher, held as the student is or in a process of its own."""


class Seat(Ranks):
    """One of several ranks, as far as sharing goes."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count


class Told(Seat):
    """One that hears of rank 0 what it thinks itself."""

    def tell(self, item):
        return item


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and what one rank and two make of it: whole trainings, and others stopped by the last rank halfway."""
    place = tmp_path_factory.mktemp("ranks")
    save_model(place / "model", tiny_network(), tiny_tokenizer())
    save_model(place / "teacher", tiny_network(seed=5), tiny_tokenizer())
    for loop in ("sft", "grpo", "ahead", "distill"):
        train(ALONE, place / "model", place, f"one-{loop}/{loop}/replicated/0")
    whole = [f"two-{kind.replace('/', '-')}/{kind}/0" for kind in (*WHOLE, *AHEAD, *HOST, *SPLIT, *TAUGHT)]
    halves = [f"part-{kind.replace('/', '-')}/{kind}/6" for kind in WHOLE]
    on_two_ranks(place, *whole, *halves)
    return place


def on_two_ranks(place: Path, *jobs: str) -> None:
    """Train under torchrun."""
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(RANKED))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(place / "model"), str(place), *jobs], env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr


def assert_equal(place: Path, name: str, loop: str) -> None:
    """What was trained must have the losses and the weights of one rank, within 1e-5."""
    ours, theirs = torch.load(place / f"{name}.pt"), torch.load(place / f"one-{loop}.pt")
    assert len(theirs["losses"]) >= 20
    assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
    for weight, other in zip(ours["weights"].values(), theirs["weights"].values(), strict=True):
        torch.testing.assert_close(weight, other, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*WHOLE, *AHEAD, *HOST, *SPLIT])
def test_two_ranks_make_the_losses_and_weights_of_one(place: Path, kind: str) -> None:
    assert_equal(place, f"two-{kind.replace('/', '-')}", kind.partition("/")[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", TAUGHT)
def test_two_ranks_learn_from_a_teacher_what_one_learns_wherever_it_is(place: Path, kind: str) -> None:
    assert_equal(place, f"two-{kind.replace('/', '-')}", "distill")
    first, *_, last = [row["distill/reverse_kl"] for row in Run(place / "one-distill", "distill").curves()]
    assert last < 0.9 * first


@pytest.mark.slow
def test_a_run_that_one_rank_asked_to_stop_continues_on_one_rank_and_then_on_two(place: Path) -> None:
    names = {kind: f"part-{kind.replace('/', '-')}" for kind in WHOLE}
    kept = {kind: {path.name for path in newest(place / name).iterdir()} for kind, name in names.items()}
    assert all("shards" in files if "fsdp" in kind else "learner.pt" in files for kind, files in kept.items())
    for kind, name in names.items():
        train(ALONE, place / "model", place, f"{name}/{kind}/14")
        assert (newest(place / name) / "learner.pt").exists()
        assert not (place / f"{name}.pt").exists()
    on_two_ranks(place, *(f"{name}/{kind}/0" for kind, name in names.items()))
    for kind, name in names.items():
        assert_equal(place, name, kind.partition("/")[0])


@pytest.mark.slow
def test_ranks_that_sample_ahead_stop_together_and_ask_what_was_not_learnt_again(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_network(), tiny_tokenizer())
    on_two_ranks(tmp_path, "run/ahead/fsdp/6")
    assert not (tmp_path / "run.pt").exists()
    on_two_ranks(tmp_path, "run/ahead/fsdp/0")
    curves = Run(tmp_path / "run", "ahead").curves()
    assert [row["step"] for row in curves] == list(range(1, 21))
    newest_of = {n: max(map(newest_version, read_rows(path))) for n, path in recorded(tmp_path / "run").items()}
    assert (newest_of[5], newest_of[7], newest_of[9]) == (2, 6, 6)  # begun at updates 2, 6 (again), 6
    assert (tmp_path / "run.pt").exists()


def recorded(run: Path) -> dict[int, Path]:
    """The attempts of each update."""
    return Run(run, "ahead").recorded()


def newest_version(row: dict) -> int:
    """Of the weights that sampled an attempt's last token."""
    return row["versions"][-1][0] if "versions" in row else row["version"]


def newest(run: Path) -> Path:
    """The newest checkpoint of a run."""
    return max((run / "checkpoints").iterdir(), key=lambda path: path.name)


def test_micro_batches_are_dealt_in_equal_numbers_of_about_equal_tokens() -> None:
    lengths = [40, 9, 9, 9, 9, 9, 9, 9]

    def pack(max_tokens: int) -> list[list[int]]:
        batches: list[list[int]] = []
        for length in lengths:
            if not batches or sum(batches[-1]) + length > max_tokens:
                batches.append([])
            batches[-1].append(length)
        return batches

    assert pack(80) == [[40, 9, 9, 9, 9], [9, 9, 9]]
    first, second = (dealt(pack, 80, Seat(rank, 2)) for rank in range(2))
    assert (sum(map(sum, first.own)), sum(map(sum, second.own))) == (49, 54)
    shares = [dealt(pack, 80, Seat(rank, 3)) for rank in range(3)]
    assert sorted(length for share in shares for batch in share.own for length in batch) == sorted(lengths)
    assert {len(share.own) + len(share.idle) for share in shares} == {1}
    crowd = [dealt(pack, 80, Seat(rank, 10)) for rank in range(10)]
    assert [(len(share.own), len(share.idle)) for share in crowd] == [(1, 0)] * 8 + [(0, 1)] * 2


def test_what_each_rank_counts_is_summed_also_what_others_did_not_meet() -> None:
    class Pair(Ranks):
        def gather(self, item):
            return [item, {"loss": 0.5, "clipped": 2.0}]

    assert Pair().sums({"loss": 1.0}) == {"loss": 1.5, "clipped": 2.0}
    assert ALONE.sums({"loss": 1.0}) == {"loss": 1.0}


LOST = """
import os, sys
from thinkery.pipeline.ranks import joined
with joined(os.environ) as ranks:
    if ranks.rank == 1:
        os._exit(1)
    ranks.gather(None)
"""


LEFT = """
import os, threading
from thinkery.errors import RankLost
from thinkery.pipeline.ranks import joined
with joined(os.environ) as ranks:
    beside, told = ranks.beside(), []
    def sample():
        told.append(beside.gather(ranks.rank))
        if ranks.rank == 0:
            try:
                beside.gather("more")
            except RankLost as error:
                told.append(str(error))
        beside.leave()
    thread = threading.Thread(target=sample)
    thread.start()
    assert ranks.gather(10 + ranks.rank) == [10, 11]
    thread.join()
    assert (told[0], len(told)) == ([0, 1], 2 - ranks.rank)
    assert ranks.rank == 1 or "another process of this run has stopped sampling" in told[1]
"""


SAVED = """
import os
import torch
from tests.train.conftest import tiny_network, tiny_tokenizer
from torch.autograd.graph import saved_tensors_hooks
from thinkery.pipeline.ranks import joined
from thinkery.train.batch import Example, pack
from thinkery.train.policy import Policy, PolicyConfig
from thinkery.train.sequences import SplitPolicy
from thinkery.train.shards import shard
torch.set_num_threads(1)
[batch] = pack([Example([n % 250 for n in range(200)], learn_from=8)], 200)

def saved(policy):
    kept = {}
    def pack_hook(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor
    with saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        logprobs, _ = policy.forward(batch)
        found = sum(kept.values())
        logprobs.sum().backward()
    return found, logprobs.detach()

with joined(os.environ) as ranks:
    cfg = PolicyConfig(sharding="fsdp", sequences="split")
    whole, expected = saved(Policy(tiny_network(), tiny_tokenizer(), PolicyConfig()))
    network = tiny_network()
    shard(network, ranks, torch.device("cpu"))
    part, logprobs = saved(SplitPolicy(network, tiny_tokenizer(), cfg, ranks=ranks))
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    assert part < 0.6 * whole, (part, whole)
"""


HELD = """
import gc, os, tempfile
from pathlib import Path
import torch
from tests.train.conftest import tiny_network, tiny_tokenizer
from tests.train.ranked import ROWS
from thinkery.model.hf import load_model, save_model
from thinkery.pipeline.artifact import Model
from thinkery.pipeline.ranks import joined
from thinkery.pipeline.run import Run
from thinkery.train.policy import PolicyConfig, open_policy
from thinkery.train.sft import Sft, sft
torch.set_num_threads(1)
P = 26_944  # of which 257 x 32 are embeddings

def held():
    gc.collect()
    plain = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter) and not each.is_meta]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in plain}.values())

with joined(os.environ) as ranks, tempfile.TemporaryDirectory() as place:
    place = Path(ranks.tell(place))
    if ranks.rank == 0:
        save_model(place / "model", tiny_network(), tiny_tokenizer())
    ranks.gather(None)
    run, before = Run(place / "run", "sft", ranks=ranks), held()
    model, cfg = Model(place / "model", {"folder": "."}), PolicyConfig(sharding="fsdp", lr=1e-3)
    with open_policy(run, model, cfg) as policy:
        assert policy.parameters == P
        own = sum(part.to_local().numel() for part in policy.network.parameters())
        assert own == (P - 257 * 32) // 2 + 32 * (129 - ranks.rank)
        assert 4 * own <= held() - before < 4 * own + 4096, (own, held() - before)
        sft(run, Sft(epochs=1, batch=4), policy, ROWS, held_out=ROWS[:3])
        assert 12 * own <= held() - before < 12 * own + 4096, (own, held() - before)
        run.save_model(policy.save_model)
        assert policy.whole is None
        expected = policy.copied().state_dict()
        assert policy.whole is None
        for name, weight in load_model(place / "run" / "model")[0].state_dict().items():
            assert torch.equal(weight, expected[name]), name
    ranks.gather(None)
"""


SAMPLED = """
import os
import torch
from tests.train.conftest import tiny_network, tiny_tokenizer
from thinkery.pipeline.ranks import joined
from thinkery.train.policy import PolicyConfig
from thinkery.train.shards import ShardedPolicy, shard
torch.set_num_threads(1)

with joined(os.environ) as ranks:
    network, cfg = tiny_network(), PolicyConfig(sharding="fsdp", lr=1e-1)
    shard(network, ranks, torch.device("cpu"))
    policy = ShardedPolicy(network, tiny_tokenizer(), cfg, ranks=ranks, sampled=torch.bfloat16)
    old, angles = tiny_network().state_dict(), tiny_network().frequencies
    for name, weight in policy.sampled.state_dict().items():
        assert torch.equal(weight, old[name].bfloat16()), name
    assert torch.equal(policy.sampled.frequencies, angles)
    for part in policy.network.parameters():
        part.grad = torch.ones_like(part)
    whole = policy.sampled
    policy.apply(0.1)  # AdamW's first step: the sign of the gradient
    assert policy.sampled is whole
    for name, weight in policy.copied().state_dict().items():
        torch.testing.assert_close(weight, old[name] - 0.1, atol=1e-5, rtol=0)
        assert torch.equal(whole.state_dict()[name], weight.bfloat16()), name
"""


def on_two(script: str) -> tuple[list[int], str]:
    """Run a script on two ranks: how each ended, and what rank 0 said of errors."""
    from thinkery.launch.local import environments

    ranks = [
        subprocess.Popen([sys.executable, "-c", script], env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)
        for env in environments(2).values()
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    return [rank.returncode for rank in ranks], said[0]


def test_a_rank_that_waits_for_one_that_is_gone_says_so() -> None:
    assert f"{RankLost.__name__}: rank 0 of 2: another process of this run has ended" in on_two(LOST)[1]


def test_a_rank_with_half_of_a_sequence_keeps_about_half_for_the_backward_pass() -> None:
    assert on_two(SAVED) == ([0, 0], "")


def test_two_ranks_that_imitate_hold_half_each_and_nothing_whole() -> None:
    assert on_two(HELD) == ([0, 0], "")


def test_whole_weights_to_sample_from_follow_every_update_in_their_own_format() -> None:
    assert on_two(SAMPLED) == ([0, 0], "")


def test_rows_are_dealt_in_parts_of_which_the_last_may_be_smaller_or_empty() -> None:
    assert [rows_of(257, rank, 2) for rank in range(2)] == [(0, 129), (129, 257)]
    assert [rows_of(5, rank, 4) for rank in range(4)] == [(0, 2), (2, 4), (4, 5), (5, 5)]
    assert [rows_of(64, rank, 64) for rank in (0, 63)] == [(0, 1), (63, 64)]


def test_a_network_of_another_family_is_not_put_in_parts(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_network(), tiny_tokenizer())
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    run = Run(tmp_path / "run", "zero", ranks=Told(0, 3))
    with (
        pytest.raises(ConfigError, match=r"policy\.sharding: only our own decoder can be sharded"),
        open_policy(run, Model(tmp_path / "model", {"folder": "."}), PolicyConfig(sharding="fsdp")),
    ):
        pass


def test_heads_that_cannot_be_dealt_and_ranks_that_hold_whole_weights_do_not_split_sequences(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_network(), tiny_tokenizer())
    run = Run(tmp_path / "run", "zero", ranks=Told(0, 3))
    model = Model(tmp_path / "model", {"folder": "."})
    with (
        pytest.raises(ConfigError, match=r"policy\.sequences: only sharded ranks split sequences"),
        open_policy(run, model, PolicyConfig(sequences="split")),
    ):
        pass
    with pytest.raises(ConfigError, match=r"cannot be dealt.*4 heads, 2 of keys, 3 ranks"):
        require_dealable(tiny_network().shape, 3)


def test_a_second_thread_gathers_beside_the_first_and_hears_when_another_rank_has_left() -> None:
    assert on_two(LEFT) == ([0, 0], "")
