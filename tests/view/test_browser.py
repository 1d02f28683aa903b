"""The pages in headless Chromium: four questions answered from them alone, keys, live runs, hostile samples, axe."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.view.conftest import HOSTILE, learn, serving

from thinkery.pipeline.files import write_json
from thinkery.pipeline.lock import locked
from thinkery.pipeline.run import Run
from thinkery.view.export import write_site
from thinkery.view.library import Library

PAGES = (
    *("", "demo/", "demo/stage/zero/", "demo/rollouts/zero/7/3/", "demo/rollouts/zero/7/only/wrong-but-formatted/"),
    *("demo/question/sums%2F21/", "demo/compare/", "demo/compare/zero/cold-start/", "demo/data/", "demo/data/corpus/"),
    *("demo/serving/", "hostile/rollouts/hostile/1/0/"),
)


def follow(page, name: str) -> None:
    """Click a link by its words."""
    page.get_by_role("link", name=name, exact=True).first.click()


def test_which_stage_cost_accuracy_and_which_question_got_worse(page, site):
    page.goto(f"{site}/demo/")
    follow(page, "Compare")
    page.wait_for_url("**/compare/")
    cost = page.locator("tr.cost")
    assert cost.count() == 1
    assert re.search(r"zero.*cold-start.*−45\.0.*cost accuracy", cost.inner_text(), re.DOTALL)
    cost.get_by_role("link", name="questions").click()
    page.wait_for_url("**/zero/cold-start/")
    worst = page.locator("tbody tr").first
    assert re.search(r"How much is \d+ \+ \d+\?\s+100 %\s+0 %\s+−100\.0", worst.inner_text())
    worst.get_by_role("link").click()
    page.wait_for_url("**/question/**")
    answers = page.locator(".by-stage")
    assert answers.count() == 3
    assert ["right" in text for text in answers.all_inner_texts()] == [False, True, False]


def test_why_a_sample_earned_its_reward(page, site):
    page.goto(f"{site}/demo/stage/zero/")
    follow(page, "Rollouts")
    page.wait_for_url("**/demo/rollouts/zero/12/")
    page.goto(f"{site}/demo/rollouts/zero/6/")
    page.locator("[data-sort]").select_option("spread")
    page.locator(".questions a").first.click()
    page.wait_for_url("**/zero/6/*/?sort=spread")
    wrong = page.locator("article.wrong").first
    text = wrong.inner_text()
    assert re.search(r"read as \? *gold 1", text)
    assert re.search(r"accuracy\s+0\s+\? is not 1", text)
    assert re.search(r"advantage\s+−0\.4\s+the group's mean reward is [\d.]+: made less likely", text)
    wrong.locator("a.number").click()
    assert re.search(r"\?sort=spread#s\d$", page.url)


def test_what_was_left_out_of_the_corpus_and_why(page, site):
    page.goto(f"{site}/demo/")
    follow(page, "Data")
    page.wait_for_url("**/data/")
    follow(page, "corpus")
    page.wait_for_url("**/data/corpus/")
    layers = page.locator(".funnel").inner_text()
    assert re.search(r"came in\s+10\s+wrong left out\s+5\s+in the exam left out\s+2\s+reasoning kept\s+3", layers)
    page.get_by_text("dropped: wrong").last.click()
    shown = page.locator("#dropped details", has_text="dropped: wrong")
    assert "? is not 10" in shown.inner_text()


def test_questions_steps_and_pages_are_reached_by_keys(page, site):
    page.goto(f"{site}/demo/rollouts/zero/6/2/")
    page.keyboard.press("j")
    page.wait_for_url("**/zero/6/3/")
    page.keyboard.press("k")
    page.wait_for_url("**/zero/6/2/")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/zero/7/")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/zero/6/")
    page.keyboard.press("/")
    page.keyboard.type("Train 8?")
    assert page.locator(".questions li:visible").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url("**/zero/6/2/?find=Train*")
    page.keyboard.press("4")
    page.wait_for_url("**/compare/")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()


def test_the_slider_goes_to_a_step(page, site):
    page.goto(f"{site}/demo/rollouts/zero/6/")
    slider = page.locator(".stepper input")
    slider.fill("9")
    page.wait_for_url("**/zero/10/")


def test_faults_filter_the_samples_of_a_question(page, site):
    page.goto(f"{site}/demo/rollouts/zero/2/0/")
    everything = page.locator("article:visible").count()
    page.locator("[data-filter] button", has_text="wrong but formatted").click()
    assert 0 < page.locator("article:visible").count() == page.locator("article.wrong").count() <= everything == 4


def test_runs_are_laid_over_each_other_and_the_address_keeps_it(page, site):
    page.goto(f"{site}/demo/stage/zero/")
    assert page.locator(".panel canvas").count() == page.locator(".panel").count() >= 3
    page.locator("[data-overlay] summary").click()
    page.get_by_label("again").check()
    page.locator(".u-legend", has_text="reward · again").first.wait_for()
    assert page.url.endswith("?with=again%3Azero")
    page.reload()
    page.locator(".u-legend", has_text="reward · again").first.wait_for()


def test_dark_and_light_are_the_readers_choice_and_stay(page, site):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{site}/demo/")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.keyboard.press("t")
    assert page.evaluate(background) != dark
    page.goto(f"{site}/demo/data/")
    assert page.evaluate(background) != dark


def test_hostile_samples_neither_run_nor_break_anything(page, site):
    for path in (
        "rollouts/hostile/1/0/",
        "rollouts/hostile/1/only/repeated/",
        "stage/hostile/",
        "",
        "rollouts/hostile/1/",
    ):
        page.goto(f"{site}/hostile/{path}", wait_until="networkidle")
        assert page.evaluate("window.hacked") is None, path
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440, path
    page.goto(f"{site}/hostile/rollouts/hostile/1/0/")
    said = page.locator("article .said:not(.thought)").all_inner_texts()
    assert said[0] == HOSTILE[0]
    assert said[2].startswith("␛[31mred␛]0;title␇")
    assert said[3].startswith("[U+202E]right to left")
    assert said[4] == "half a character \ufffd and \ufffd and \ufffd"
    follow(page, "this question in other steps and stages")
    page.locator("h2", has_text="In hostile").wait_for()


def test_a_live_run_is_followed_without_reloading(page, tmp_path):
    folder = tmp_path / "steps" / "zero-00000000.partial"
    graph = [{"name": "zero", "key": "0" * 64, "kind": "Model", "inputs": {}}]
    write_json(tmp_path / "run.json", {"id": "x", "created": 0, "seed": 0, "attempts": [], "graph": graph})
    run = Run(folder, "zero", root=tmp_path)
    with locked(tmp_path), serving(Library([tmp_path])) as address:
        run.event("begin")
        for number in (1, 2, 3):
            learn(run, number)
        page.goto(f"{address}/{tmp_path.name}/stage/zero/")
        page.evaluate("window.stayed = true")
        assert page.evaluate("own.last") == 3
        learn(run, 4)
        time.sleep(1)
        learn(run, 5)
        page.locator("#head", has_text="step 5 of 12").wait_for()
        page.locator(".u-legend", has_text="0.417").wait_for()
        assert page.evaluate("[window.stayed, own.panels[0].series[0].x]") == [True, [1, 2, 3, 4, 5]]


@pytest.mark.parametrize(("scheme", "paths"), [("light", PAGES), ("dark", PAGES[1:4])], ids=["light", "dark"])
def test_axe_finds_no_serious_fault(page, site, scheme, paths):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    faults = {}
    for path in paths:
        page.goto(f"{site}/{path}")
        found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        faults[path] = [(one["id"], one["nodes"][0]["html"][:200]) for one in found]
    assert faults == {path: [] for path in paths}


def test_a_static_site_works_from_the_disk(page, runs, tmp_path):
    library, folder = Library([runs / "demo"], most=2), tmp_path / "site"
    with ThreadPoolExecutor(1) as thread:  # the browser's own event loop runs in this one
        thread.submit(write_site, library, tmp_path / "none.db", folder).result()
    page.goto((folder / "index.html").as_uri())
    page.get_by_role("link", name="demo").click()
    page.get_by_role("link", name="Stages").click()
    page.locator(".panel canvas").first.wait_for()
    page.get_by_role("link", name="Rollouts").first.click()
    page.locator("article.sample").first.wait_for()
    assert page.evaluate("getComputedStyle(document.querySelector('.sample')).borderTopWidth") == "3px"
    page.locator(".stepper input").fill("0")
    page.wait_for_url("**/zero/1/index.html")


def test_no_page_is_wider_than_a_phone(page, site):
    page.set_viewport_size({"width": 390, "height": 844})
    for path in PAGES:
        page.goto(f"{site}/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
