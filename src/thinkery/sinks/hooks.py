"""What is called when an alarm rings: a command, a webhook, or both. Whatever they do, the run goes on.

Both get the alarm's event as JSON: `{"run": …, "step": …, "alarm": …, "message": …, "setting": …, "advice": …}`.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pydantic import Field, SecretStr

from thinkery.config import Config
from thinkery.errors import RunFailed


class Alerts(Config):
    """Settings of what is called when an alarm rings."""

    command: str = ""
    """A program with its arguments, started without a shell; the alarm is JSON on its standard input."""
    webhook: SecretStr = SecretStr("")
    """An address that gets the alarm as JSON in a POST; whoever knows it may post, so the record shows only stars."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Seconds after which a command or an address that does not answer is given up."""


class Hooks:
    """Calls command and webhook for each alarm, in a thread; `failures` is what went wrong."""

    def __init__(self, cfg: Alerts) -> None:
        self._cfg = cfg
        self._caller = ThreadPoolExecutor(1, "alarm hooks")
        self._calls: list[tuple[str, str, Future[None]]] = []

    def ring(self, alarm: Mapping[str, Any]) -> None:
        """Begin to tell of an alarm."""
        if self._cfg.command:
            self._calls.append((alarm["alarm"], "command", self._caller.submit(run_command, self._cfg, alarm)))
        if self._cfg.webhook.get_secret_value():
            self._calls.append((alarm["alarm"], "webhook", self._caller.submit(post, self._cfg, alarm)))

    def failures(self, *, wait: bool = False) -> list[dict[str, str]]:
        """What failed since the last time this was asked: alarm, hook, message; with `wait`, of all calls begun."""
        ended = [call for call in self._calls if wait or call[2].done()]
        self._calls = [call for call in self._calls if call not in ended]
        failed = [(alarm, hook, call.exception()) for alarm, hook, call in ended]
        return [{"alarm": alarm, "hook": hook, "message": str(error)} for alarm, hook, error in failed if error]


def run_command(cfg: Alerts, alarm: Mapping[str, Any]) -> None:
    """Run the command to its end; CalledProcessError where it says that it failed."""
    words = shlex.split(cfg.command)
    subprocess.run(words, input=json.dumps(alarm).encode(), capture_output=True, timeout=cfg.timeout_s, check=True)


def post(cfg: Alerts, alarm: Mapping[str, Any]) -> None:
    """Send the alarm to the webhook; RunFailed, without the address, where the answer is no success."""
    import httpx

    answer = httpx.post(cfg.webhook.get_secret_value(), json=alarm, timeout=cfg.timeout_s)
    if not answer.is_success:
        raise RunFailed(f"the webhook answered {answer.status_code} {answer.reason_phrase}")
