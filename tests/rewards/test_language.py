"""The share of words in a language."""

from __future__ import annotations

import subprocess
import sys

import pytest

from thinkery.core import Completion, Task
from thinkery.rewards.language import consistency, consistency_in, language_of, language_share

THOUGHTS = {
    "en": "First I count the apples that are left in the basket, and then I add the two she bought.",
    "de": "Zuerst zähle ich die Äpfel, die noch im Korb liegen, und dann addiere ich die zwei gekauften.",
    "fr": "Je compte d'abord les pommes qui restent dans le panier, puis j'ajoute les deux achetées.",
    "es": "Primero cuento las manzanas que quedan en la cesta y luego sumo las dos que compró.",
    "it": "Prima conto le mele che sono rimaste nel cesto e poi aggiungo le due comprate.",
    "pt": "Primeiro conto as maçãs que ficaram no cesto e depois somo as duas que ela comprou.",
    "pl": "Najpierw liczę jabłka, które zostały w koszyku, a potem dodaję dwa kupione.",
    "ru": "Сначала я считаю яблоки, которые остались в корзине, а потом прибавляю два купленных.",
    "uk": "Спочатку я рахую яблука, які залишилися в кошику, а потім додаю два куплені.",
    "zh": "我先数一数篮子里还剩下多少个苹果，然后再加上她买来的那两个，最后检查一遍。",
    "ja": "まずかごに残っているリンゴを数えて、それから買った二つを足します。",
}


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("I think it's fine", "en", 1.0),
        ("one two 三四", "en", 0.5),
        ("one two 三四", "zh", 0.5),
        ("先算 then add 12 + 5", "zh", 0.5),
        ("x = 5, y = π", "en", None),
        ("12 + 5 = 17", "zh", None),
        ("", "en", None),
        ("先算 $x_{max} + y$ 和 `code here` \\boxed{5} <answer>", "zh", 1.0),
        ("```python\nprint(1)\n``` 好", "zh", 1.0),
        ("日本語です", "ja", 1.0),
        ("日本語です", "zh", 0.0),
        ("Привет мир hello", "ru", 2 / 3),
        ("안녕 hello", "ko", 2 / 3),
        ("hello", "en-GB", 1.0),
        ("好", "zh-CN", 1.0),
        ("très bien", "fr", 1.0),
    ],
)
def test_words_are_counted_by_their_script(text: str, target: str, share: float | None) -> None:
    assert language_share(text, target) == pytest.approx(share)


def test_only_the_thought_is_judged() -> None:
    task = Task("t", "多少？", language="zh")
    completion = Completion("", thought="先 add 一", answer="all English here", closed=True)
    assert consistency(task, completion).value == pytest.approx(2 / 3)
    assert consistency(task, Completion("1+1", thought="1+1=2")).reason == "no words to judge"
    assert consistency(task, Completion("1+1", thought="1+1=2")).value == 1.0


def test_a_task_without_language_takes_that_of_its_prompt() -> None:
    assert [language_of(text) for text in ("How many?", "多少？", "いくつ？", "몇 개?", "1+1")] == [
        "en", "zh", "ja", "ko", None,
    ]  # fmt: skip
    assert consistency(Task("t", "多少？"), Completion("", thought="先 add 一")).value == pytest.approx(2 / 3)


@pytest.mark.parametrize("language", THOUGHTS)
def test_a_thought_in_one_language_is_all_of_it_and_none_of_another(language: str) -> None:
    shares = {target: language_share(THOUGHTS[language], target) for target in THOUGHTS}
    assert shares == {target: float(target == language) for target in THOUGHTS}
    assert language_of(THOUGHTS[language]) == language


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ("en", "fr", 17 / 32),  # "I" and "a" are single letters and do not count
        ("de", "en", 17 / 34),
        ("es", "pt", 15 / 30),
        ("it", "es", 14 / 29),
        ("ru", "uk", 10 / 20),
        ("zh", "ja", 34 / 65),
        ("ja", "zh", 31 / 65),
    ],
)
def test_languages_of_one_script_are_told_apart(first: str, second: str, share: float) -> None:
    assert language_share(f"{THOUGHTS[first]} {THOUGHTS[second]}", first) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("然后 Alice Smith 给了 Bob 三个", "zh", 1.0),  # names
        ("Then 加三", "zh", 2 / 3),  # a capital at the beginning of a sentence is no name
        ("我们 Let Us Add 三个", "zh", 4 / 7),  # nor are three
        ("先调用 main.py 和 x_max，再看 utf8、read(2)、--all、a/b", "zh", 1.0),  # code
        ("Wir rufen open(2) in src/main.py auf", "de", 1.0),
        ("答は三です。那么我们现在把所有的苹果都加起来。", "ja", 5 / 21),
        ("It’s Méliès’s film, let’s go", "en", 1.0),  # a foreign name follows its neighbours
    ],
)
def test_names_and_code_are_neutral_and_han_follow_their_neighbours(text: str, target: str, share: float) -> None:
    assert language_share(text, target) == pytest.approx(share)


def test_the_target_may_be_fixed() -> None:
    task, thought = Task("t", "How many?", language="en"), Completion("", thought="先 add 一")
    assert consistency(task, thought).value == pytest.approx(1 / 3)
    assert consistency_in("zh")(task, thought) == consistency(Task("t", "多少？", language="zh"), thought)


def test_the_embedded_world_never_needs_the_detector() -> None:
    code = (
        "import importlib, itertools, sys\n"
        "from thinkery.rewards.language import language_of, language_share\n"
        "documents = importlib.import_module('thinkery.tasks.world.documents').documents\n"
        "for text in itertools.islice(documents(1), 500):\n"
        "    english, chinese = language_share(text, 'en'), language_share(text, 'zh')\n"
        "    assert english is None or abs(english + chinese - 1) < 1e-9, text\n"
        "    language_of(text)\n"
        "assert 'py3langid' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
