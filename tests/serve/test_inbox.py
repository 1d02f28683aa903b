"""News on their way to a request's task: none is lost, those that wait come together, silence is noticed in time."""

from __future__ import annotations

import asyncio
import json
import pickle

from thinkery.serve.answers import ChatAnswer, Form, TextAnswer, event
from thinkery.serve.call import Said
from thinkery.serve.inbox import Inbox
from thinkery.serve.jobs import Mark, News, Word


def test_what_comes_meanwhile_is_taken_together_and_in_order():
    async def talk() -> list[list[str]]:
        inbox = Inbox()
        for text in "ab":
            inbox.put(News("j", answer=text))
        both = await inbox.take(1.0)
        asyncio.get_running_loop().call_soon(inbox.put, News("j", answer="c"))
        return [[one.answer for one in batch] for batch in (both, await inbox.take())]

    assert asyncio.run(talk()) == [["a", "b"], ["c"]]


def test_silence_ends_after_its_time_however_often_there_was_news():
    async def talk() -> tuple[float, float, list[News], int]:
        loop = asyncio.get_running_loop()
        inbox = Inbox()
        timers, begun = set(), loop.time()
        for _ in range(40):
            loop.call_later(0.004, inbox.put, News("j", answer="x"))
            assert await inbox.take(0.1)
            timers.add(inbox.timer)
        began = loop.time()
        nothing = await inbox.take(0.1)
        return began - begun, loop.time() - began, nothing, len(timers)

    talked, seconds, nothing, timers = asyncio.run(talk())
    assert nothing == []
    assert 0.09 < seconds < 1.0
    assert timers <= talked / 0.1 + 2  # one, set anew when it rang too early


def test_a_shorter_patience_is_kept_although_a_longer_one_was_asked_for_before():
    async def talk() -> float:
        loop = asyncio.get_running_loop()
        inbox = Inbox()
        loop.call_soon(inbox.put, News("j"))
        await inbox.take(600)
        began = loop.time()
        assert await inbox.take(0.05) == []
        inbox.close()
        return loop.time() - began

    assert 0.04 < asyncio.run(talk()) < 1.0


def test_a_task_that_is_cancelled_while_news_come_leaves_them_there():
    async def talk() -> list[News]:
        inbox = Inbox()
        task = asyncio.ensure_future(inbox.take())
        await asyncio.sleep(0)
        inbox.put(News("j", end="stop"))  # it is woken, and cancelled before it runs
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        return await inbox.take()

    assert asyncio.run(talk()) == [News("j", end="stop")]


def test_news_that_come_together_say_what_they_said_one_by_one():
    mark = Mark(Word("a", b"a"), -1.0)
    first = News("j", "so ", thought_marks=(mark,), tokens=1, reasoning=1, hit=64, queued_s=0.5)
    last = News("j", "I", "Yes", (mark,), (mark,), tokens=5, reasoning=3, hit=64, end="stop")
    both = first.before(last)
    assert both == News("j", "so I", "Yes", (mark, mark), (mark,), (), 5, 3, 64, 0.5, "stop")
    assert pickle.loads(pickle.dumps([both])) == [both]


def test_a_form_is_the_event_it_stands_for():
    hostile = 'two "quotes", a \\ and \n, 思考 \u2028 \ue000 </script>'
    chat = ChatAnswer("m", "fp", logprobs=False, promote_unclosed=False)
    said = Said()
    chat.begun.add(2)
    told = b"".join(chat.events(2, News("j", thought=hostile, answer=hostile), said))
    whole = [chat.chunk(2, chat.text(kind, hostile)) for kind in ("reasoning_content", "content")]
    assert told == b"".join(map(event, whole))
    plain = TextAnswer("m", "fp", ["", "echo "], logprobs=False)
    (told,) = plain.events(1, News("j", answer=hostile), said)
    assert json.loads(told[6:])["choices"] == [plain.choice(1, f"echo {hostile}", [], None)]
    assert Form({"a": 1, "text": "\ue000 here \ue000"}).filled("x") == event({"a": 1, "text": "x"})
