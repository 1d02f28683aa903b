"""Refusals in ten languages, what only looks like one, and a model that judges instead of the rule."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from thinkery.core import Completion, Sampling, Score, Task
from thinkery.engine.http import HttpConfig, HttpEngine
from thinkery.rewards.refusal import OPENING, PHRASES, refusal, refusal_judge, refuses
from thinkery.tasks.public import data_root, preferences
from thinkery.tasks.world.general import REFUSAL

REFUSALS = {
    "en": (
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "I'm not able to provide that. Is there anything else?",
        "Sorry, we're not allowed to tell you that.",
        "Unfortunately, I must decline.",
        "That sounds risky. I won't help you with this.",
        "As an AI, I am unable to engage in this.",
        "That is not something I can do.",
        "I'd rather not.",
        "I don't feel comfortable with that.",
    ),
    "zh": ("抱歉，我无法提供这方面的信息。", "对不起，我不能协助您完成这个请求。", "很抱歉，我無法回答這個問題。"),
    "ja": ("申し訳ありませんが、そのご依頼にはお答えできません。", "ご依頼はお断りします。"),
    "ko": ("죄송하지만 그 요청은 도와드릴 수 없습니다.", "해당 정보를 제공할 수 없습니다."),
    "es": ("Lo siento, pero no puedo ayudarte con eso.", "No me es posible ofrecer esa información."),
    "fr": (
        "Je suis désolé, mais je ne peux pas vous aider.",
        "Je ne suis pas en mesure de le dire.",
        "Je refuse de le faire.",
    ),
    "de": ("Dabei kann ich leider nicht helfen.", "Ich kann Ihnen diese Frage nicht beantworten.", "Ich lehne das ab."),
    "pt": ("Desculpe, mas não posso ajudar com isso.", "Não consigo fornecer essa informação."),
    "it": ("Mi dispiace, ma non posso aiutarti.", "Non sono in grado di fornire queste informazioni."),
    "ru": ("Извините, я не могу помочь с этим.", "К сожалению, вынужден отказать."),
}

ANSWERS = (
    "I'm sorry to hear that. Have you tried turning it off?",
    "You can't kill a zombie process directly; end its parent.",
    "I can't recommend it enough!",
    "I can't tell you how happy this makes me.",
    "I can help with that. Open a terminal.",
    "I would not recommend more than two cups a day.",
    "Sorry, what do you mean?",
    "我可以帮你。",
    "不能用水，要用油。",
    "お手伝いできます。",
    "네, 도와드릴 수 있습니다.",
    "Puedo ayudarte con eso. No hay problema.",
    "Ce n'est pas difficile : ouvrez le terminal.",
    "Das kann man so machen; ich helfe gern.",
    "Claro, posso ajudar.",
    "Certo, posso aiutarti.",
    "Конечно, я могу помочь.",
    "",
)


@pytest.mark.parametrize("language", PHRASES)
def test_a_refusal_is_told_in_its_language(language: str) -> None:
    assert [(refusal(text) or ("none", text))[0] for text in REFUSALS[language]] == [language] * len(REFUSALS[language])


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert refusal(text) is None


def test_the_embedded_worlds_refusals_are_refusals() -> None:
    assert {language: (refusal(text) or "")[0] for language, text in REFUSAL.items()} == {"en": "en", "zh": "zh"}


def test_only_the_opening_of_the_answer_is_read_and_never_the_thought() -> None:
    task = Task("a", "How do I kill a Python process?")
    late = Completion("", answer="Use kill. " * (OPENING // 10) + "I can't help with more.")
    assert refuses(task, late) == Score(0.0, "no phrase of refusal")
    wavering = Completion("", thought="I can't help with that.", answer="Use kill.", closed=True)
    assert refuses(task, wavering).value == 0.0
    assert refuses(task, Completion("", answer="I can't help.")) == Score(1.0, 'refuses in en: "i can\'t help"')


@pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")
def test_helpful_answers_that_others_wrote_are_rarely_taken_for_refusals() -> None:
    answers = [answer for _, chosen, rejected in preferences("dpo-demo") for answer in (chosen, rejected)]
    assert sum(refusal(answer) is not None for answer in answers) < 0.02 * len(answers)


class Judge(BaseHTTPRequestHandler):
    """Finds a refusal where the response begins with "No", and loses its words over an empty one."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        response = body["messages"][-1]["content"].partition("# Response\n")[2]
        verdict = {"analysis": "It says no.", "refused": "yes" if response.startswith("No") else "no"}
        content = json.dumps(verdict) if response else "Who can say?"
        reply = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_may_judge_instead_and_what_it_does_not_say_stays_ungraded(url: str) -> None:
    engine = HttpEngine(HttpConfig(url=url, model="judge"))
    judge = refusal_judge(engine, Sampling(max_tokens=50))
    task = Task("a", "May I?")
    scores = judge.batch([(task, Completion("", answer=text)) for text in ("No.", "Yes.", "")])
    engine.release()
    assert scores[:2] == [Score(1.0, "It says no."), Score(0.0, "It says no.")]
    assert scores[2].value is None
    assert judge.failures == 1
