"""Text to tokens and back: special tokens, streams of tokens, templates on disk."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import tokenizers
from tokenizers import decoders, models
from transformers import AutoTokenizer

from thinkery import chat
from thinkery.core import Message
from thinkery.errors import InputError
from thinkery.model.tokenizer import Tokenizer, require_chat

TURNS = [
    Message("system", "Be brief."),
    Message("user", "Hi 👋"),
    Message("assistant", "Hey", "greet"),
    Message("user", "é?"),
]


def streamed(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [stream.push(token) for token in tokens] + [stream.close()]


def test_encoding_recognises_special_tokens_and_adds_none(tokenizer):
    assert tokenizer.encode("<|im_start|>a<|im_end|>") == [1, tokenizer.encode("a")[0], 2]
    assert tokenizer.encode("") == []


def test_decoding_skips_special_tokens_and_keeps_spaces(tokenizer):
    assert tokenizer.decode(tokenizer.encode("<|im_start|> a , b .<|im_end|>")) == " a , b ."


def test_a_character_split_over_tokens_streams_when_it_is_whole(tokenizer):
    tokens = tokenizer.encode("a👋b")
    assert len(tokens) == 6
    assert streamed(tokenizer, tokens) == ["a", "", "", "", "👋", "b", ""]


def test_a_character_cut_off_at_the_end_streams_as_it_decodes(tokenizer):
    tokens = tokenizer.encode("aé")[:-1]
    assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens) == "a\ufffd"


def test_any_tokens_stream_to_what_they_decode_to(tokenizer):
    draw = random.Random(0)
    for _ in range(200):
        tokens = [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randrange(12))]
        assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_a_completion_is_decoded_and_split_without_its_end_token(tokenizer):
    tokens = [*tokenizer.encode("  hm 👋\n</think>\n\n4"), 2]
    completion = tokenizer.completion(tokens, [-0.5] * len(tokens), "stop", opened=True, version=3)
    assert (completion.thought, completion.answer, completion.closed) == ("hm 👋", "4", True)
    assert completion.text == "  hm 👋\n</think>\n\n4"
    assert completion.tokens == tuple(tokens)
    assert len(completion.logprobs) == len(tokens)
    assert (completion.finish, completion.version) == ("stop", 3)


def test_an_end_token_that_is_not_marked_special_is_still_left_out(tokenizer):
    stop = tokenizer.encode("Z")[0]
    ends = Tokenizer(tokenizer.backend, eos="<|im_end|>", stops=frozenset({stop}))
    assert ends.eos_ids == {2, stop}
    assert ends.completion([*tokenizer.encode("ok"), stop], [], "stop", opened=False).text == "ok"


def test_the_prompt_tells_whether_the_thought_is_open(tokenizer):
    tokens, opened = tokenizer.prompt([Message("user", "<think>")])
    assert not opened
    assert tokenizer.decode(tokens) == "user\n<think>\nassistant\n"
    tokens, opened = tokenizer.prompt([Message("user", "x")], thought_prefix="Let me see")
    assert opened
    assert tokenizer.decode(tokens).endswith("assistant\n<think>\nLet me see")
    tokens, opened = tokenizer.prompt([Message("user", "x")], template="{{ messages[0].content }}: <think>")
    assert opened
    assert tokenizer.decode(tokens) == "x: <think>"


def test_a_conversation_becomes_prompt_and_target_tokens(tokenizer):
    prompt, target = tokenizer.conversation([Message("user", "1+1"), Message("assistant", "2", "easy")])
    assert tuple(prompt) == tokenizer.prompt([Message("user", "1+1")])[0]
    assert target == [*tokenizer.encode("<think>\neasy\n</think>\n\n2"), 2]


def test_a_saved_tokenizer_loads_equal(tokenizer, tmp_path):
    tokenizer.with_template(chat.R1_ZERO).save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos, loaded.eos, loaded.pad_id) == ("<|im_start|>", "<|im_end|>", 2)
    assert loaded.template == chat.R1_ZERO
    assert loaded.encode("aé👋 <|im_end|>") == tokenizer.encode("aé👋 <|im_end|>")


@pytest.mark.parametrize("template", [chat.THINK_CHAT, chat.R1_ZERO])
@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>"])
def test_transformers_renders_our_template_to_the_same_tokens(tokenizer, tmp_path, template, eos):
    ours = Tokenizer(tokenizer.backend, eos=eos, bos="<|im_start|>" if eos == "<|im_end|>" else "", template=template)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    rows = [{"role": m.role, "content": m.content} for m in TURNS]
    assert tuple(theirs.apply_chat_template(rows, add_generation_prompt=True)["input_ids"]) == ours.prompt(TURNS)[0]
    text = theirs.apply_chat_template(rows, add_generation_prompt=True, tokenize=False)
    assert text == chat.render(template, TURNS, bos=ours.bos, eos=eos)


def test_transformers_decodes_as_we_do(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    tokens = tokenizer.encode("<|im_start|>it 's , 👋 .")
    assert AutoTokenizer.from_pretrained(tmp_path).decode(tokens, skip_special_tokens=True) == tokenizer.decode(tokens)


def test_a_template_inside_the_configuration_is_read_too(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    for stored, expected in (("plain", "plain"), (named, "d")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": stored}))
        assert Tokenizer.load(tmp_path).template == expected


def test_special_tokens_may_be_objects_or_in_their_own_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eos_id, loaded.pad_id) == (2, 0)


def test_chatting_needs_a_template_and_an_end_of_sequence(tokenizer):
    with pytest.raises(InputError, match="no chat template"):
        require_chat(Tokenizer(tokenizer.backend, eos="<|im_end|>"))
    with pytest.raises(InputError, match="no end-of-sequence token"):
        require_chat(Tokenizer(tokenizer.backend, template="x"))
    assert require_chat(tokenizer) == chat.THINK_CHAT


def test_what_a_tokenizer_lacks_is_told_with_the_folder_it_came_from(tokenizer, tmp_path):
    replace(tokenizer, template=None).save(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path}: the tokenizer has no chat template\n  try: put a chat_template"):
        require_chat(Tokenizer.load(tmp_path))


def test_a_tokenizer_of_the_old_files_is_converted(tmp_path):
    vocab = {"<|endoftext|>": 0, "h": 1, "i": 2, "hi": 3}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh i\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"})
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert Tokenizer.load(tmp_path).encode("hi") == [3]


def test_a_folder_without_any_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_spaces_that_a_decoder_strips_at_the_start_stream_as_they_decode():
    vocab = {"▁a": 0, "▁b": 1, "c": 2, "<s>": 3}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab))
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<s>"])
    sentencepiece = Tokenizer(backend)
    assert streamed(sentencepiece, [3, 0, 1, 2, 3, 1]) == ["", "a", " b", "c", "", " b", ""]
    assert sentencepiece.decode([3, 0, 1, 2, 3, 1]) == "a bc b"
