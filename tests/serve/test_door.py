"""Between door and replica: whatever is sent arrives, however much it is and however long the other end is busy."""

from __future__ import annotations

import asyncio
import time
from multiprocessing.connection import Connection

import uvloop

from thinkery.core import Sampling
from thinkery.process import Stop, start_process
from thinkery.serve.door import Door
from thinkery.serve.inbox import Inbox
from thinkery.serve.jobs import Job, Load, News

JOBS = 300
PROMPT = tuple(range(3000))
"""Of so many jobs more than a megabyte: several times what a socket holds."""


def busy_replica(connection: Connection) -> None:
    """Read nothing for a while, then answer every job with a text that does not fit into the socket either."""
    connection.send(Load(0.0))
    time.sleep(1.0)
    while not isinstance(job := connection.recv(), Stop):
        connection.send([News(job.id, answer=f"{job.prompt[-1]} " * 100_000 if job.id == "0" else "", end="stop")])


def chatty_replica(connection: Connection) -> None:
    """Answer a job in many words, one after the other."""
    connection.send(Load(0.0))
    job = connection.recv()
    for number in range(JOBS):
        connection.send([News(job.id, answer=f"{number} ")])
    connection.send([News(job.id, end="stop")])
    connection.recv()


def broken_replica(connection: Connection) -> None:
    """End before any model is open."""
    connection.close()


def slow_replica(connection: Connection) -> None:
    """Be open after a while."""
    time.sleep(1.0)
    connection.send(Load(0.0))
    connection.recv()


def test_a_replica_that_could_not_begin_makes_nobody_ready():
    mains = iter([broken_replica, slow_replica])

    async def begin() -> int:
        door = Door(lambda: start_process(next(mains)), 2, note=lambda news: None)
        await door.ready.wait()
        found = door.open
        door.close()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(begin()) == 1


def test_a_busy_replica_gets_every_job_and_its_news_come_whole():
    async def talk() -> list[News]:
        door = Door(lambda: start_process(busy_replica), 1, note=lambda news: None)
        await door.ready.wait()
        inbox, heard = Inbox(), []
        for number in range(JOBS):
            door.submit(Job(str(number), "m", PROMPT, number, Sampling()), inbox)
        while len(heard) < JOBS:
            batch = await inbox.take(60.0)
            assert batch, f"only {len(heard)} were answered"
            heard += batch
        assert door.under_way == 0
        door.close()
        return heard

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        heard = runner.run(talk())
    assert [one.job for one in heard] == [str(number) for number in range(JOBS)]
    assert heard[0].answer == "2999 " * 100_000
    assert {one.problem for one in heard} == {""}


def test_what_a_replica_said_while_the_loop_was_busy_is_heard_at_once():
    async def listen() -> list[News]:
        door = Door(lambda: start_process(chatty_replica), 1, note=lambda news: None)
        await door.ready.wait()
        inbox = Inbox()
        door.submit(Job("0", "m", (1,), 0, Sampling()), inbox)
        heard = await inbox.take(60.0)
        time.sleep(0.5)  # somebody else's work
        heard += await inbox.take(60.0)
        door.close()
        return heard

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        heard = runner.run(listen())
    assert "".join(one.answer for one in heard).split() == [str(number) for number in range(JOBS)]
    assert heard[-1].end == "stop"
