"""`thinkery keys`: who may use the server, and how much each may spend."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from thinkery.cli import serve, terminal
from thinkery.errors import UsageError

if TYPE_CHECKING:
    from thinkery.serve.ledger import Key


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with which key."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="a new key; its secret is shown once")
    create.add_argument("name", metavar="NAME", help="whose it is")
    create.add_argument("--credit", default=None, metavar="USD", help="what it may spend (default: no limit)")
    listing = actions.add_parser("list", help="every key, its balance and what it has spent")
    listing.add_argument("--json", action="store_true", help="machine output on stdout")
    revoke = actions.add_parser("revoke", help="the key opens nothing from now on")
    credit = actions.add_parser("credit", help="add to what the key may spend")
    for action in (revoke, credit):
        action.add_argument("key", metavar="KEY", help="the key's id, as `thinkery keys list` shows it")
    credit.add_argument("amount", metavar="USD", help="such as 5 or 0.25")
    for action in (create, listing, revoke, credit):
        serve.ledger_argument(action)


def main(args: argparse.Namespace) -> None:
    """Do it, and say what there is now."""
    from contextlib import closing

    from thinkery.serve.ledger import Ledger

    with closing(Ledger(args.ledger)) as ledger:
        if args.action == "create":
            key, secret = ledger.create_key(args.name, granted=None if args.credit is None else nano(args.credit))
            terminal.remark(f"{key.id} for {key.name}; the secret is not kept and cannot be shown again:")
            print(secret)
        elif args.action == "list":
            show(ledger.keys(), as_json=args.json)
        elif args.action == "revoke":
            ledger.revoke(args.key)
            terminal.remark(f"{args.key} is revoked")
        else:
            key = ledger.top_up(args.key, nano(args.amount))
            terminal.remark(f"{key.id} has {dollars(key.balance)} left")


def show(keys: list[Key], *, as_json: bool) -> None:
    """The keys as a table, or for machines."""
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "ends": f"…{key.tail}",
            "created": datetime.fromtimestamp(key.created, UTC).isoformat(timespec="seconds"),
            "balance": dollars(key.balance),
            "spent": dollars(key.spent),
            "state": "active" if key.revoked is None else "revoked",
        }
        for key in keys
    ]
    if as_json:
        terminal.emit(rows)
    elif rows:
        print(terminal.table([list(row.values()) for row in rows], header=list(rows[0])))


def nano(text: str) -> int:
    """Dollars as nano-USD, exactly."""
    try:
        amount = Decimal(text) * 10**9
    except InvalidOperation:
        raise UsageError("not an amount of dollars", found=text) from None
    if not amount.is_finite() or amount != int(amount) or not 0 <= amount < 2**62:
        raise UsageError("not an amount of dollars with at most nine decimals", found=text)
    return int(amount)


def dollars(nano_usd: int | None) -> str:
    """Nano-USD as dollars, exactly."""
    return "no limit" if nano_usd is None else f"{Decimal(nano_usd).scaleb(-9).normalize():f} USD"
