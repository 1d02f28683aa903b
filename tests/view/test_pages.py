"""What the pages of a run say, what they refuse, and that they follow a run that goes on."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient
from tests.view.conftest import HOSTILE, ODD, learn

from thinkery.errors import DiskFull, InputError, RunFailed
from thinkery.pipeline.artifact import Report
from thinkery.pipeline.build import build
from thinkery.pipeline.files import write_json
from thinkery.pipeline.read import open_run
from thinkery.pipeline.run import Run
from thinkery.pipeline.step import step as drawn
from thinkery.view.app import create_app
from thinkery.view.curves import thinned
from thinkery.view.export import write_site
from thinkery.view.library import Book, Library, Metrics
from thinkery.view.pages import Layer, funnel
from thinkery.view.text import clean, number, points, signed


@pytest.fixture(scope="module")
def client(runs) -> TestClient:
    """Requests to the pages of `runs`."""
    return TestClient(create_app(Library([runs]), ("testserver",)))


def test_styles_scripts_and_fonts_are_kept_by_the_browser_under_addresses_that_change_with_them(client):
    page = client.get("/demo/stage/zero/").text
    assets = re.findall(r"/(_/[^\"]+)\"", page)
    style = next(one for one in assets if "style.css" in one)
    assets += [f"_/{name}" for name in re.findall(r"url\(([^)]+)\)", client.get(f"/{style}").text)]
    assert {one.removeprefix("_/").partition(".")[0] for one in assets} >= {
        "style",
        "view",
        "charts",
        "uplot",
        "inter",
        "mono",
    }
    for address in assets:
        answer = client.get(f"/{address}")
        assert "immutable" in answer.headers["cache-control"]
        assert sha256(answer.content).hexdigest()[:8] == address.partition("?")[2]
    assert client.get(f"/{style.partition('?')[0]}").headers["cache-control"] == "no-cache"


def test_every_page_of_a_run_opens(client):
    for path in (
        *("", "demo/", "demo/stage/zero/", "demo/stage/corpus/", "demo/stage/eval-zero/", "demo/rollouts/zero/7/"),
        *("demo/rollouts/zero/7/3/", "demo/rollouts/zero/7/only/wrong-but-formatted/", "demo/question/sums%2F21/"),
        *("demo/compare/", "demo/compare/zero/cold-start/", "demo/data/", "demo/data/corpus/", "demo/serving/"),
    ):
        assert client.get(f"/{path}").status_code == 200, path


def test_only_reading_is_allowed_and_only_by_the_names_of_this_machine(client):
    assert client.post("/demo/").status_code == 405
    assert client.get("/demo/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/demo/", headers={"host": "testserver:80"}).status_code == 200


def test_no_page_may_load_from_elsewhere(client):
    answer = client.get("/demo/stage/zero/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", answer.text) == []


def test_what_is_not_there_is_a_page_that_says_so(client):
    for path in ("nothing/", "demo/stage/zeroo/", "demo/rollouts/zero/99/", "demo/question/none/", "demo/compare/a/b/"):
        answer = client.get(f"/{path}")
        assert (answer.status_code, "Not here" in answer.text) == (404, True), path
    assert "did you mean &#39;zero&#39;?" in client.get("/demo/stage/zeroo/").text


def test_pages_load_without_torch_and_the_training_stack():
    code = (
        "import sys, thinkery.view.server, thinkery.view.export\n"
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_sample_as_text_is_the_whole_of_it(client):
    path = "/hostile/rollouts/hostile/1/0"
    long = client.get(f"{path}/5.txt")
    assert long.headers["content-type"] == "text/plain; charset=utf-8"
    assert long.text == f"<think>I add them.</think>{HOSTILE[5]}"
    page = client.get(f"{path}/").text
    assert len(page) < 200_000
    assert "988,000 more characters" in page


def test_an_odd_question_has_an_address(site):
    page = httpx.get(f"{site}/hostile/rollouts/hostile/1/0/").text
    (address,) = set(re.findall(r'href="([^"]+/question/[^"]+)"', page))
    assert unquote(address.split("/question/")[1].strip("/")) == ODD.id
    assert httpx.get(f"{site}/hostile/question/{quote(ODD.id, safe='')}/").status_code == 200


def test_what_would_act_is_shown():
    assert clean("\x1b[31m\x00\x7f\x9b") == "␛[31m␀␡\ufffd"
    assert clean("a\u202eb\u2066c") == "a[U+202E]b[U+2066]c"
    assert clean("tab\tand\nline \ud83d") == "tab\tand\nline \ufffd"


def test_numbers_are_as_people_write_them():
    assert [number(n) for n in (0.012345, 1.5, 48210.0, 3.0, None)] == ["0.0123", "1.5", "48,210", "3", "–"]
    assert [signed(n) for n in (0.5625, -0.4375, 0.0)] == ["+0.562", "−0.438", "0"]
    assert [points(n) for n in (0.021, -0.03, 0.0)] == ["+2.1", "−3.0", "±0.0"]


def test_a_spike_stays_a_spike_when_points_are_thinned():
    x, y = np.arange(100_000), np.zeros(100_000)
    y[77_777], y[33_333] = 5.0, -5.0
    kept_x, kept_y = thinned(x, y, stretches=100)
    assert len(kept_x) <= 202
    assert (kept_x[kept_y.argmax()], kept_x[kept_y.argmin()], kept_x[0], kept_x[-1]) == (77_777, 33_333, 0, 99_999)
    assert (np.diff(kept_x) > 0).all()


def test_a_funnel_goes_from_what_came_in_to_what_stayed():
    layers = funnel({"dropped: wrong": 5, "kept: reasoning": 3, "dropped: in the exam": 2, "spent on it": 9}, rows=3)
    assert layers == [
        Layer("came in", 10, 1.0, "counted"),
        Layer("dropped: wrong", 5, 0.5, "dropped"),
        Layer("dropped: in the exam", 2, 0.2, "dropped"),
        Layer("kept: reasoning", 3, 0.3, "kept"),
    ]


def test_curves_go_on_where_they_were_read_and_begin_anew_after_a_rewind(tmp_path):
    run = Run(tmp_path, "zero", attempt=1)
    curve = Metrics(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        run.metrics(step, {"n": step})
    run.checkpoint(2, lambda folder: (folder / "state").write_text("2"))
    run.metrics(3, {"n": 3})
    assert [row["n"] for row in curve.refreshed().rows()] == [1, 2, 3]
    run.metrics(4, {"n": 4})
    assert [row["n"] for row in curve.refreshed().rows(after=3)] == [4]
    before = curve.generation
    again = Run(tmp_path, "zero", attempt=2)
    again.latest()
    for step in (3, 4, 5):
        again.metrics(step, {"n": 10 * step})
    assert [row["n"] for row in curve.refreshed().rows()] == [1, 2, 30, 40, 50]
    assert curve.generation == before + 1


def test_only_new_points_are_sent_to_a_page_that_knows_the_rest(client):
    first = client.get("/demo/stage/zero/curves.json").json()
    assert (first["whole"], first["last"], first["panels"][0]["series"][0]["x"][-1]) == (True, 12, 12)
    known = f"after=10&generation={first['generation']}"
    later = client.get(f"/demo/stage/zero/curves.json?{known}").json()
    assert (later["whole"], later["panels"][0]["series"][0]["x"]) == (False, [11, 12])
    assert client.get("/demo/stage/zero/curves.json?after=10&generation=77").json()["whole"]
    assert [mark["kind"] for mark in first["marks"]] == ["alarm"]


def test_a_folder_of_runs_is_found_and_a_folder_of_none_is_an_error(runs, tmp_path):
    assert sorted(Library([runs]).folders) == ["again", "demo", "hostile"]
    assert list(Library([runs / "demo", runs / "demo"]).folders) == ["demo"]
    with pytest.raises(InputError, match="no run here"):
        Library([tmp_path])


def test_a_static_site_has_every_page_that_it_links_to(runs, tmp_path):
    count = write_site(Library([runs / "demo", runs / "hostile"], most=2), tmp_path / "none.db", tmp_path / "site")
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert count >= len(pages) > 30
    for page in pages:
        for address in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            target = (page.parent / address).resolve()
            assert target.is_file(), (page, address)
            assert target.is_relative_to(tmp_path / "site")


def test_a_static_site_that_cannot_be_finished_leaves_nothing(runs, tmp_path, monkeypatch):
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("thinkery.view.export.write_file", full)
    with pytest.raises(DiskFull):
        write_site(Library([runs / "demo"]), tmp_path / "none.db", tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_grows_is_shown_as_it_is(tmp_path):
    folder = tmp_path / "steps" / "zero-00000000.partial"
    run = Run(folder, "zero", root=tmp_path)
    graph = [{"name": "zero", "key": "0" * 64, "kind": "Model", "inputs": {}}]
    about = {"schema": 1, "id": "x", "created": 0, "seed": 0, "attempts": [], "graph": graph}
    write_json(tmp_path / "run.json", about)
    client = TestClient(create_app(Library([tmp_path]), ("testserver",)))
    name = tmp_path.name
    for step in (1, 2):
        learn(run, step)
        assert client.get(f"/{name}/stage/zero/curves.json").json()["last"] == step
        assert client.get(f"/{name}/rollouts/zero/", follow_redirects=False).headers["location"] == f"{step}/"


def measured(run: Run) -> Report:
    """One update."""
    learn(run, 1)
    return run.save_report({"at": run.attempt})


def broken_off(run: Run) -> Report:
    """One update, and then an error."""
    learn(run, 1)
    raise RunFailed("it broke")


def test_a_step_that_is_made_anew_is_shown_as_it_is_now(tmp_path):
    found = []
    for _ in range(2):
        build({"made": drawn("made", measured)}, tmp_path, fresh=True)
        made = Book("run", open_run(tmp_path)).artifact("made")
        assert made
        found.append(made.data["at"])
    assert found == [1, 2]


def test_a_step_that_is_begun_anew_has_pages_before_it_has_measured_anything(tmp_path):
    with pytest.raises(RunFailed):
        build({"made": drawn("made", broken_off)}, tmp_path / "run")
    client = TestClient(create_app(Library([tmp_path]), ("testserver",)))
    addresses = ("/run/", "/run/stage/made/", "/run/stage/made/curves.json")
    assert [client.get(address).status_code for address in addresses] == [200] * 3
    next((tmp_path / "run").glob("steps/made-*.partial/metrics.jsonl")).unlink()
    assert [client.get(address).status_code for address in addresses] == [200] * 3


def test_a_stage_says_what_its_preflight_found(client):
    said = re.search(r"Before the first update, [^<]+", client.get("/demo/stage/zero/").text)
    assert said
    assert re.findall(r"\d[\d.]*", said[0]) == ["64", "25.0", "50.0", "75.0"]
