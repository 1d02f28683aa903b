"""Templates and the thought parser: each case of the parser was a public bug of some server."""

from __future__ import annotations

import pytest

from thinkery.chat import R1_ZERO, THINK_CHAT, Parts, conversation_parts, opens_thought, render, split, turn_end
from thinkery.core import Message
from thinkery.errors import InputError

ASKED = [Message("user", "hi"), Message("assistant", "hello", "greet back"), Message("user", "1+1?")]
TAUGHT = [*ASKED, Message("assistant", "2", "one and one")]
EOS = ["<|im_end|>", "<|eot_id|>", "<｜end▁of▁sentence｜>", "</s>"]


def test_the_zero_prompt_is_the_papers():
    assert render(R1_ZERO, [Message("user", "1+1?")], eos="</s>") == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
        "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
        "tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
        "User: 1+1?. Assistant:"
    )


def test_the_zero_prompt_begins_with_bos_where_the_model_has_one():
    assert render(R1_ZERO, ASKED, bos="<s>", eos="</s>").startswith("<s>A conversation")
    assert render(R1_ZERO, ASKED, bos="<|im_start|>", eos="<|im_end|>").startswith("A conversation")


def test_chatml_models_get_chatml():
    assert render(THINK_CHAT, [Message("system", "Be brief."), *ASKED], eos="<|im_end|>") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_models_without_turn_tokens_get_plain_words():
    assert render(THINK_CHAT, [Message("system", "Be brief."), *ASKED], bos="<s>", eos="</s>") == (
        "<s>Be brief.\n\nUser: hi\n\nAssistant: hello</s>\n\nUser: 1+1?\n\nAssistant:"
    )


def test_a_final_assistant_turn_shows_its_thought():
    assert render(THINK_CHAT, TAUGHT, eos="<|im_end|>", generate=False).endswith(
        "<|im_start|>assistant\n<think>\none and one\n</think>\n\n2<|im_end|>\n"
    )


def test_a_thought_inside_an_earlier_answer_is_dropped():
    turns = [Message("user", "hi"), Message("assistant", "<think>\ngreet\n</think>\n\nhello"), Message("user", "x")]
    assert render(THINK_CHAT, turns, eos="</s>") == "User: hi\n\nAssistant: hello</s>\n\nUser: x\n\nAssistant:"


@pytest.mark.parametrize("eos", EOS)
def test_prompt_and_target_are_the_rendered_conversation(eos):
    prompt, target = conversation_parts(THINK_CHAT, TAUGHT, eos=eos)
    assert prompt == render(THINK_CHAT, ASKED, eos=eos)
    assert prompt + target == render(THINK_CHAT, TAUGHT, eos=eos, generate=False).rstrip()
    assert target.lstrip() == f"<think>\none and one\n</think>\n\n2{eos}"


def test_a_target_without_a_thought_is_the_answer_alone():
    assert conversation_parts(THINK_CHAT, [ASKED[0], Message("assistant", "hello")], eos="<|im_end|>")[1] == (
        "hello<|im_end|>"
    )


def test_a_template_that_opens_the_thought_gets_the_rest_of_it():
    template = "{{ messages[-1].content }}{% if add_generation_prompt %}{{ '\n' }}A: <think>{{ '\n' }}{% endif %}"
    prompt, target = conversation_parts(template, TAUGHT, eos="</s>")
    assert prompt + target == "1+1?\nA: <think>\none and one\n</think>\n\n2</s>"
    plain = [ASKED[0], Message("assistant", "hello")]
    assert "".join(conversation_parts(template, plain, eos="</s>")) == "hi\nA: <think>\n</think>\n\nhello</s>"


def test_a_template_that_ignores_thoughts_does_not_lose_them():
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert conversation_parts(template, TAUGHT, eos="</s>")[1] == " <think>\none and one\n</think>\n\n2</s>"


def test_a_conversation_to_learn_from_ends_with_the_assistant():
    with pytest.raises(InputError, match="must end with the assistant"):
        conversation_parts(THINK_CHAT, ASKED, eos="</s>")


def test_a_thought_can_be_begun_for_the_model():
    assert render(THINK_CHAT, ASKED, eos="<|im_end|>", thought_prefix="").endswith("assistant\n<think>\n")
    assert render(R1_ZERO, ASKED, eos="</s>", thought_prefix="Well").endswith("Assistant: <think>\nWell")
    assert render("A<think>{{ '\n' }}", ASKED, thought_prefix="Well") == "A<think>\nWell"


def test_only_the_end_of_the_prompt_decides_whether_a_thought_is_open():
    assert opens_thought("<｜Assistant｜><think>\n")
    assert not opens_thought(render(R1_ZERO, [Message("user", "what does <think>")]))
    assert not opens_thought("<think>\n</think>\n\n")


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("<think>\nhm\n</think>\n\n4", False, Parts("hm", "4", True)),
        (" \n<think>hm</think> <answer>4</answer>", False, Parts("hm", "<answer>4</answer>", True)),
        ("hm\n</think>\n\n4\n", True, Parts("hm", "4\n", True)),
        ("4 is <think>the</think> answer", False, Parts(None, "4 is <think>the</think> answer", False)),
        ("hm, still thin", True, Parts("hm, still thin", "", False)),
        ("<think>\nhm, still", False, Parts("hm, still", "", False)),
        ("hm</think>\n</think>\n4", True, Parts("hm", "4", True)),
        ("hm</think>4</think>5", True, Parts("hm", "4</think>5", True)),
        ("<think></think>4", False, Parts("", "4", True)),
        ("\n\n</think>\n\n4", True, Parts("", "4", True)),
        ("<think>\nhm</think>4", True, Parts("hm", "4", True)),
        ("4</think>5", False, Parts(None, "4</think>5", False)),
        (" 4", False, Parts(None, "4", False)),
        ("", True, Parts("", "", False)),
        ("", False, Parts(None, "", False)),
        ("<thin", False, Parts(None, "<thin", False)),
    ],
)
def test_a_completion_splits_into_thought_and_answer(text, opened, parts):
    assert split(text, opened=opened) == parts


def test_a_template_that_refuses_a_conversation_says_why():
    with pytest.raises(InputError, match="no system turn"):
        render("{{ raise_exception('no system turn') }}", ASKED)


def test_a_broken_template_is_the_users_error():
    with pytest.raises(InputError, match="cannot render"):
        render("{% for m in messages %}", ASKED)


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
    ],
)
def test_templates_run_in_a_sandbox(attack):
    with pytest.raises(InputError, match="cannot render"):
        render(attack, ASKED)


def test_templates_may_use_what_hugging_face_offers_them():
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}{{ m | tojson }}"
        "{% endgeneration %}{% endfor %}{{ strftime_now('%Y') | length }}"
    )
    assert render(template, [Message("user", "é<")]) == '{"role": "user", "content": "é<"}4'


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"),
        (THINK_CHAT, "</s>\n\nUser: Why?\n\nAssistant:"),
        (R1_ZERO, ""),  # which shows the last message alone
        ("{{ raise_exception('one question only') if messages | length > 1 }}", ""),
    ],
)
def test_an_earlier_turn_ends_as_the_template_says(template, end):
    assert turn_end(template, eos="</s>") == end
