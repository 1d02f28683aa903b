"""What the endpoints share, and the life of a request: admitted, billed, done, charged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from thinkery.core import Message
from thinkery.serve.call import Call, Heard, Usage
from thinkery.serve.config import Serve
from thinkery.serve.door import Door
from thinkery.serve.jobs import Job
from thinkery.serve.ledger import Bill, Key, cost_of
from thinkery.serve.limiter import Limiter
from thinkery.serve.metrics import Metrics
from thinkery.serve.offers import Offer
from thinkery.serve.profiles import PROFILES
from thinkery.serve.reading import Reader
from thinkery.serve.refusals import Refusal, invalid, overloaded
from thinkery.serve.risk import RiskControl
from thinkery.serve.till import Till

LOG = logging.getLogger("thinkery.serve")
"""One line for every request: who, what model, how much, how long; never what was said."""


@dataclass(slots=True)
class State:
    """One server."""

    cfg: Serve
    door: Door
    till: Till
    offers: Mapping[str, Offer]
    """By the names that clients use; the first is the default."""
    limiter: Limiter
    metrics: Metrics
    risk: RiskControl | None = None
    draining: bool = False
    calls: dict[Call, Charge] = field(default_factory=dict)
    """Requests under way."""

    @property
    def reader(self) -> Reader:
        """How requests are read."""
        return Reader(PROFILES[self.cfg.api_profile], self.cfg.limits, self.cfg.engine)

    def offer(self, name: str) -> Offer:
        """The model a request asks for."""
        if name not in self.offers:
            raise invalid("Model Not Exist")
        return self.offers[name]

    async def begin(self, key: Key, jobs: Sequence[Job]) -> Call:
        """Admit a request, open its bill and have it done; `settle` belongs to it in any case."""
        if self.draining:
            raise overloaded("The server is draining", after_s=30)
        if self.door.under_way + len(jobs) > self.cfg.limits.waiting:
            raise overloaded()
        if key.balance is not None and key.balance <= 0:
            raise Refusal(402, "Insufficient Balance")
        call = Call(self.door, jobs, queue_s=self.cfg.limits.queue_s)
        self.calls[call] = Charge(key, await self.till.open(call, key))
        call.submit()
        return call

    def news(
        self, call: Call, asked: Sequence[Sequence[Message]], *, silence_s: float | None = None
    ) -> AsyncIterator[Heard]:
        """What comes of a call, held back until risk control has read it where there is risk control."""
        if self.risk is None:
            return call.news(silence_s=silence_s)
        return self.risk.news(call, asked, silence_s=silence_s)

    async def charge(self, call: Call, *, cancelled: bool = False, failed: bool = False) -> None:
        """Charge a request, once."""
        charge = self.calls.pop(call, None)
        if charge is None:
            return
        finish = "error" if failed else "cancelled" if cancelled else str(call.said[0].end)
        usage = await self.till.charge(charge.bill, call, finish, cancelled=cancelled)
        self.limiter.spend(charge.key.id, usage.prompt + usage.completion)
        cost = cost_of(usage, self.cfg.prices)
        self.metrics.ended(call, usage, cost, finish=finish, cancelled=cancelled)
        LOG.info(line(charge, call, usage, finish))

    async def settle(self, call: Call, *, failed: bool = False) -> None:
        """Stop what nobody waits for any more, and charge what was generated."""
        if call in self.calls:
            cut = await call.end()
            await self.charge(call, cancelled=cut and not failed, failed=failed)


@dataclass(frozen=True, slots=True)
class Charge:
    """Who pays for a request."""

    key: Key
    bill: Bill


def line(charge: Charge, call: Call, usage: Usage, finish: str) -> str:
    """A request for the log."""
    review = "" if call.review_s is None else f" review_s={call.review_s:.3f}"
    return (
        f"{charge.bill.request} {charge.key.id} {charge.bill.model} {finish} prompt={usage.prompt} hit={usage.hit} "
        f"completion={usage.completion} reasoning={usage.reasoning} "
        f"first_s={-1 if call.first_s is None else call.first_s:.3f} s={call.seconds:.3f}{review}"
    )
