"""Where the event loop leaves what replicas say until the task of a request takes it."""

from __future__ import annotations

import asyncio
import math

from thinkery.serve.jobs import News


class Inbox:
    """What has come for one request and was not taken yet: news that come while its task is busy are taken together.

    Its one timer is set anew where it ends too early, not for every piece of news.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.news: list[News] = []
        self.waiter: asyncio.Future[None] | None = None
        self.until = math.inf
        self.timer: asyncio.TimerHandle | None = None

    def put(self, news: News) -> None:
        """Something has come."""
        self.news.append(news)
        self.wake()

    async def take(self, patience_s: float | None = None) -> list[News]:
        """All that has come, after waiting for it; nothing after `patience_s`."""
        if not self.news:
            self.until = math.inf if patience_s is None else self.loop.time() + patience_s
            self.set_timer()
            self.waiter = self.loop.create_future()
            await self.waiter
        news, self.news = self.news, []
        return news

    def wake(self) -> None:
        """Let who waits go on."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def set_timer(self) -> None:
        """Have the timer ring no later than patience ends."""
        if self.timer is not None and self.timer.when() > self.until:
            self.close()
        if self.timer is None and self.until < math.inf:
            self.timer = self.loop.call_at(self.until, self.ring)

    def ring(self) -> None:
        """The timer's time has come: patience is over, or there was news and it ends later now."""
        self.timer = None
        if self.loop.time() >= self.until:
            self.wake()
        else:
            self.set_timer()

    def close(self) -> None:
        """Let go of the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
