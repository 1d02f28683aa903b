"""The pulse of ranks: who says nothing is missed, who works is not, and who slept blames nobody."""

from __future__ import annotations

import time

import pytest
from torch.distributed import HashStore

from thinkery.pipeline import pulse as pulses
from thinkery.pipeline.pulse import Pulse, Watchdog

QUICK = Watchdog(silence_s=0.6, behind_s=1e6)


@pytest.fixture
def heard():
    """Rank 0 of three, and what it does with the ranks that it misses where no wait of its own can be ended."""
    pulse, left = Pulse(HashStore(), 0, 3, QUICK), []
    pulse.leave = left.append
    yield pulse, left
    pulse.stop()


def until(met, seconds: float = 10.0) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not (found := met()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(found)


def test_a_rank_that_says_nothing_is_named_with_the_line_at_which_it_was_last_seen(heard):
    pulse, _ = heard
    pulse.store.set("thinkery/pulse/2", "1 train/grpo.py:7 learn")
    pulse.start()
    for beat in range(40):  # rank 1 goes on, rank 2 does not
        pulse.store.set("thinkery/pulse/1", f"{beat} stages/zero.py:3 zero")
        time.sleep(0.03)
    lost = pulse.missing()
    assert lost is not None
    assert "rank 2 has given no sign of life for 0.6 s" in str(lost)
    assert "rank 2 was last seen at train/grpo.py:7 learn" in str(lost)
    assert lost.exit_code == 75


def test_a_rank_hears_rank_0_alone_and_work_on_its_own_is_no_silence():
    store = HashStore()
    first, second = Pulse(store, 0, 2, QUICK), Pulse(store, 1, 2, QUICK)
    assert (list(first.silence), list(second.silence)) == ([1], [0])
    first.start()
    second.start()
    time.sleep(1.5)  # neither meets the other meanwhile
    assert first.missing() is second.missing() is None
    second.stop()
    assert until(first.missing)
    first.stop()


def test_a_process_that_was_held_up_itself_blames_nobody(heard, monkeypatch):
    pulse, _ = heard
    now = [0.0]
    monkeypatch.setattr(pulses.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pulse.ended, "wait", lambda seconds: now.__setitem__(0, now[0] + 3600) or now[0] > 7200)
    pulse.watch()
    assert pulse.silence == pytest.approx({1: 4 * pulse.every_s, 2: 4 * pulse.every_s}, rel=1)
    assert pulse.missing() is None


def test_in_a_stage_of_all_ranks_a_wait_that_nothing_interrupts_is_ended(heard, monkeypatch):
    monkeypatch.setattr(pulses, "GRACE_S", 0.1)
    pulse, left = heard
    for other in (1, 2):
        pulse.store.set(f"thinkery/pulse/{other}", "1 nowhere")
    pulse.start()
    assert until(pulse.missing)
    time.sleep(0.4)
    assert left == [], "rank 0 works alone, and needs nobody"
    pulse.shared = 1
    assert until(lambda: left)
    assert "rank 1, 2 has given no sign of life" in str(left[0])


@pytest.mark.parametrize(("setting", "met"), [("start_s", False), ("behind_s", True)])
def test_a_rank_that_lives_but_does_not_come_is_hung(setting, met):
    store = HashStore()
    hurried = Watchdog(silence_s=2).model_copy(update={setting: 0.5})
    first, second = Pulse(store, 0, 2, hurried), Pulse(store, 1, 2, hurried)
    if met:
        first.meet()
    for pulse in (first, second):
        pulse.start()
    time.sleep(0.8)
    assert first.missing() is None, "outside of a stage of all ranks nobody is waited for"
    first.shared = 1
    assert until(first.missing)
    assert f"watchdog.{setting}: the ranks have not met for 0.5 s" in str(first.missing())
    first.meet()
    assert first.missing() is None
    for pulse in (first, second):
        pulse.stop()
