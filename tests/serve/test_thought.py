"""The course of an answer inside a replica: thought, answer, stops and budgets, whatever way tokens cut the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkery.chat import CLOSE, OPEN, SplitStream, split
from thinkery.core import Completion, Sampling
from thinkery.engine.base import Event
from thinkery.model.locate import locate
from thinkery.model.tokenizer import Tokenizer
from thinkery.serve.choice import Choice, StopCut
from thinkery.serve.jobs import Begins, Job, News

TOKENIZER = Tokenizer.load(locate("tiny"))
TEXTS = st.lists(
    st.sampled_from([OPEN, CLOSE, "<", "</", "think>", "</thi", " ", "\n", "two", "é", "思", "STOP", "ST"]), max_size=12
).map("".join)


def run(tokens: list[int], *, finish: str = "stop", begins: Begins = "open", **job) -> list[News]:
    """The news of a job for which the engine samples these tokens, as far as it wants them."""
    choice = Choice(Job("j", "m", (1,), 0, Sampling(), begins, **job), TOKENIZER)
    said = tokens + ([TOKENIZER.eos_id] if finish == "stop" else [])
    found = []
    for number, token in enumerate(said):
        done = Completion("", finish=finish) if number == len(said) - 1 else None
        found.append(choice.take(Event("r", 0, (token,), done, logprobs=(-1.0,))))
        if found[-1].end:
            break
    return found


def texts(news: list[News]) -> tuple[str, str]:
    """Thought and answer, put together."""
    return "".join(one.thought for one in news), "".join(one.answer for one in news)


def said(text: str, **job) -> tuple[str, str]:
    return texts(run(TOKENIZER.encode(text), **job))


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.booleans(), st.data())
def test_text_that_comes_bit_by_bit_is_split_like_the_whole(text, opened, data):
    stream, thought, answer, left = SplitStream(opened=opened), "", "", text
    while left:
        n = data.draw(st.integers(1, len(left)))
        bits = stream.push(left[:n])
        thought, answer, left = thought + bits[0], answer + bits[1], left[n:]
    bits = stream.close()
    whole = split(text, opened=opened)
    assert (thought + bits[0], answer + bits[1]) == (whole.thought or "", whole.answer)
    assert stream.closed == whole.closed


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.booleans())
def test_an_answer_is_the_split_of_its_text_however_tokens_cut_it(text, opened):
    one_by_one = [TOKENIZER.backend.encode(c, add_special_tokens=False).ids for c in text]
    begins: Begins = "thought" if opened else "open"
    for tokens in (TOKENIZER.encode(text), [token for ids in one_by_one for token in ids]):
        whole = split(TOKENIZER.decode(tokens), opened=opened)
        assert texts(run(tokens, begins=begins)) == (whole.thought or "", whole.answer)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.data())
def test_text_is_cut_before_a_stop_string_that_comes_bit_by_bit(text, data):
    cut, shown, left = StopCut(["STOP"]), "", text
    while left and not cut.found:
        n = data.draw(st.integers(1, len(left)))
        shown, left = shown + cut.push(left[:n]), left[n:]
    assert shown + cut.close() == text.partition("STOP")[0]


@pytest.mark.parametrize(
    ("text", "begins", "parts"),
    [
        ("<think>\nTwo.\n</think>\n\nFour", "open", ("Two.", "Four")),
        ("Two.\n</think>\n\nFour", "thought", ("Two.", "Four")),
        ("Two.</think>\n\nFour", "open", ("", "Two.</think>\n\nFour")),
        ("<think>", "thought", ("", "")),
        ("Two. </think> </think>Four", "thought", ("Two.", "Four")),
        ("\n</think>\n\nFour", "thought", ("", "Four")),
        ("Two. </think> Four</think>", "thought", ("Two.", "Four</think>")),
        ("思考</think>答案", "thought", ("思考", "答案")),
        ("<think> in plain text</think>", "answer", ("", "<think> in plain text</think>")),
    ],
)
def test_whether_a_thought_is_open_comes_from_the_prompt(text, begins, parts):
    assert said(text, begins=begins) == parts


def test_a_thought_that_is_never_closed_leaves_an_empty_answer():
    news = run(TOKENIZER.encode("Two and two"), begins="thought", finish="length")
    assert texts(news) == ("Two and two", "")
    assert (news[-1].end, news[-1].unclosed, news[-1].reasoning) == ("length", True, news[-1].tokens)


def test_stop_strings_do_not_count_in_the_thought():
    assert said("STOP here</think>now STOP here", begins="thought", stop=("STOP",)) == ("STOP here", "now ")


def test_a_limit_of_the_answer_does_not_count_the_thought():
    news = run(TOKENIZER.encode("One two three four.</think>five six seven"), begins="thought", max_answer=2)
    assert news[-1].end == "length"
    assert news[-1].tokens - news[-1].reasoning == 2
    assert texts(news)[0] == "One two three four."


def test_a_thought_that_is_too_long_is_closed():
    choice = Choice(Job("j", "m", (1,), 0, Sampling(), "thought", max_thought=3), TOKENIZER)
    forced = []
    for token in TOKENIZER.encode("One two three four five"):
        allowed = choice.allowed(())
        choice.take(Event("r", 0, (allowed[0] if allowed else token,), logprobs=(-1.0,)))
        forced += [] if allowed is None else list(allowed)
    assert forced == TOKENIZER.encode("\n</think>")
    assert choice.parts.closed


def test_penalties_grow_with_what_was_said():
    choice = Choice(Job("j", "m", (1,), 0, Sampling(), presence_penalty=0.5, frequency_penalty=0.25), TOKENIZER)
    for token in (41, 41, 42):
        choice.take(Event("r", 0, (token,), logprobs=(-1.0,)))
    assert choice.bias(()) == {41: -1.0, 42: -0.75}


def test_calls_of_tools_are_taken_out_of_the_answer():
    text = 'Add.</think>I call. <tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    news = run(TOKENIZER.encode(text), begins="thought", calls=True)
    assert texts(news) == ("Add.", "I call. ")
    assert news[-1].end == "tool_calls"
    assert [(call.name, call.arguments) for call in news[-1].calls] == [("add", '{"a": 2}')]
    broken = "I call. <tool_call>nonsense</tool_call>"
    news = run(TOKENIZER.encode(broken), begins="answer", calls=True)
    assert (texts(news)[1], news[-1].end) == (broken, "stop")
