"""What listens to a run cannot hurt it: alarms to a real server and a real command, and sinks that fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from thinkery.config import Loaded, check, read_layers, resolved
from thinkery.errors import HashMismatch, RunFailed
from thinkery.pipeline.artifact import Report
from thinkery.pipeline.build import build
from thinkery.pipeline.read import open_run
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step
from thinkery.recipes.r1 import R1
from thinkery.sinks import Alerts, Broadcast, Sinks

KEEP = "import pathlib, sys; pathlib.Path({path!r}).write_text(sys.stdin.read())"


class Inbox(ThreadingHTTPServer):
    """A server on loopback that keeps what is posted to it and answers with `status`."""

    status = 200

    def __init__(self) -> None:
        self.posted: list[dict] = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def ringing(run: Run) -> Report:
    """A step that records two rows and rings once."""
    run.metrics(1, {"reward/mean": 0.1})
    run.alarm("truncated", "60% are cut", "grpo.max_tokens", "raise it")
    run.metrics(2, {"reward/mean": 0.2})
    return run.save_report({})


def listened(folder: Path, sinks: Sinks | None = None, alerts: Alerts | None = None) -> list[dict]:
    """Build the ringing step with these listeners; returns the run's events."""
    broadcast = Broadcast(sinks or Sinks(), alerts or Alerts(), folder)
    build({"ring": step("ring", ringing)}, folder, follow=broadcast.follow, on_event=broadcast.event)
    return open_run(folder).events()


def of_kind(events: list[dict], kind: str) -> list[dict]:
    return [row for row in events if row["kind"] == kind]


def test_an_alarm_reaches_a_webhook_and_a_command(tmp_path: Path, inbox: Inbox) -> None:
    told = tmp_path / "told.json"
    command = f'{sys.executable} -c "{KEEP.format(path=str(told))}"'
    webhook = f"http://127.0.0.1:{inbox.server_port}/alarms"
    events = listened(tmp_path / "run", alerts=Alerts(command=command, webhook=SecretStr(webhook), timeout_s=60))
    (rung,) = of_kind(events, "alarm")
    assert (rung["alarm"], rung["setting"], rung["advice"]) == ("truncated", "grpo.max_tokens", "raise it")
    assert inbox.posted == [rung]
    assert json.loads(told.read_text()) == rung
    assert of_kind(events, "hook-failed") == []


def test_hooks_that_fail_are_recorded_and_the_run_goes_on(tmp_path: Path, inbox: Inbox) -> None:
    inbox.status = 503
    alerts = Alerts(
        command="/no/such/program", webhook=SecretStr(f"http://127.0.0.1:{inbox.server_port}"), timeout_s=60
    )
    events = listened(tmp_path, alerts=alerts)
    failed = {row["hook"]: row["message"] for row in of_kind(events, "hook-failed")}
    assert "No such file or directory: '/no/such/program'" in failed["command"]
    assert failed["webhook"] == "the webhook answered 503 Service Unavailable"
    assert len(of_kind(events, "hook-failed")) == 2
    assert open_run(tmp_path).steps["ring"].status == "done"


def test_a_command_that_hangs_is_given_up(tmp_path: Path) -> None:
    events = listened(tmp_path, alerts=Alerts(command="sleep 60", timeout_s=0.2))
    (failed,) = of_kind(events, "hook-failed")
    assert "timed out after 0.2 seconds" in failed["message"]


def test_bytes_that_changed_on_the_disk_are_an_alarm(tmp_path: Path, inbox: Inbox) -> None:
    alerts = Alerts(webhook=SecretStr(f"http://127.0.0.1:{inbox.server_port}"))
    listened(tmp_path, alerts=alerts)
    made = open_run(tmp_path).steps["ring"].path / "report" / "report.json"
    made.write_text('{"changed": true}')
    with pytest.raises(HashMismatch):
        listened(tmp_path, alerts=alerts)
    assert [alarm["alarm"] for alarm in inbox.posted] == ["truncated", "hash"]
    assert str(made) in inbox.posted[1]["message"]


def test_the_advice_about_a_changed_checkpoint_brings_the_run_back(tmp_path: Path) -> None:
    def climb(run: Run) -> Report:
        first = latest[0] if (latest := run.latest()) else 0
        for update in range(first + 1, 7):
            run.checkpoint(update, lambda folder: (folder / "state").write_text("x"))
            if update == 4 and first == 0:
                raise RunFailed("the power went out")
        return run.save_report({"began_at": first})

    def attempt() -> None:
        broadcast = Broadcast(Sinks(), Alerts(), tmp_path)
        build({"climb": step("climb", climb)}, tmp_path, follow=broadcast.follow, on_event=broadcast.event)

    with pytest.raises(RunFailed):
        attempt()
    (state,) = tmp_path.glob("steps/*/checkpoints/step-000004/state")
    state.write_text("y")
    with pytest.raises(HashMismatch):
        attempt()
    (alarm,) = of_kind(open_run(tmp_path).events(), "alarm")
    assert alarm["alarm"] == "hash"
    advice = alarm["advice"].partition(": ")[2].split()
    assert advice == ["rm", "-r", str(state.parent)]
    subprocess.run(advice, check=True)
    attempt()
    assert json.loads((open_run(tmp_path).artifacts["climb"].folder / "report.json").read_text()) == {"began_at": 3}
    assert len(of_kind(open_run(tmp_path).events(), "alarm")) == 1


def test_a_sink_that_cannot_write_is_reported_once_and_the_run_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "taken").write_text("a file where a folder should be")
    events = listened(tmp_path / "run", Sinks(to=("tensorboard",), folder=tmp_path / "taken"))
    alarms = [row["message"] for row in of_kind(events, "alarm") if row["alarm"] == "sink"]
    assert len(alarms) == 1
    assert alarms[0].startswith("tensorboard gets no more curves: ")
    assert open_run(tmp_path / "run").steps["ring"].status == "done"


def test_a_sink_whose_library_is_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    events = listened(tmp_path, Sinks(to=("trackio",)))
    (alarm,) = [row for row in of_kind(events, "alarm") if row["alarm"] == "sink"]
    assert alarm["message"].endswith("there is no module trackio: pip install 'thinkery[trackio]'")
    assert alarm["setting"] == "sinks.to"


def test_the_address_of_a_webhook_stays_out_of_the_record() -> None:
    layers = read_layers([], ['alerts.webhook="https://example.org/T0KEN"'], {})
    loaded = Loaded(check(R1, layers), layers.sources, layers.header)
    assert loaded.config.alerts.webhook.get_secret_value().endswith("T0KEN")
    assert "T0KEN" not in str(resolved(loaded))
