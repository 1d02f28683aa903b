"""Text ⇄ tokens: a Hugging Face tokenizer.json with its chat template and its ends of sequence."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tokenizers

from thinkery import chat
from thinkery.core import Completion, Finish, Message
from thinkery.errors import InputError


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's vocabulary, special tokens and chat template; `bos` and `eos` are "" where there is none.

    `stops` are the ids that end a completion besides `eos` (generation_config.json lists them).
    """

    backend: tokenizers.Tokenizer
    eos: str = ""
    bos: str = ""
    pad: str = ""
    template: str | None = None
    stops: frozenset[int] = field(default_factory=frozenset)
    folder: str = field(default="", compare=False)
    """Where it was read, for errors to name."""

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a Hugging Face folder; one without tokenizer.json is converted by transformers."""
        folder = Path(folder)
        settings = read_json(folder / "tokenizer_config.json")
        backend = _backend(folder)
        backend.no_padding()
        backend.no_truncation()
        specials = {**read_json(folder / "special_tokens_map.json"), **settings}
        return cls(
            backend,
            eos=_special(specials, "eos_token"),
            bos=_special(specials, "bos_token"),
            pad=_special(specials, "pad_token"),
            template=_template(folder, settings),
            stops=_stops(folder),
            folder=str(folder),
        )

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja as transformers reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "bos_token": self.bos or None,
            "eos_token": self.eos or None,
            "pad_token": self.pad or self.eos or None,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        if self.template is not None:
            (folder / "chat_template.jinja").write_text(self.template)

    def with_template(self, template: str) -> Tokenizer:
        """The same tokenizer with another chat template."""
        return replace(self, template=template)

    def without_specials_from(self, id: int) -> Tokenizer:
        """The same tokenizer without the added special tokens of this id and above."""
        settings = json.loads(self.backend.to_str())
        added = settings["added_tokens"]
        settings["added_tokens"] = [token for token in added if token["id"] < id or not token["special"]]
        return replace(self, backend=tokenizers.Tokenizer.from_str(json.dumps(settings)))

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id; an embedding may have more rows."""
        return _size(self.backend)

    @property
    def eos_id(self) -> int:
        """The token that ends a turn; raises InputError when the tokenizer declares none."""
        token = self.backend.token_to_id(self.eos) if self.eos else None
        if token is None:
            raise InputError("the tokenizer has no end-of-sequence token", where=self.folder, hint=EOS_HINT)
        return token

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends a completion."""
        return self.stops | {self.eos_id}

    @property
    def pad_id(self) -> int:
        """The padding token, the end of sequence where there is none."""
        token = self.backend.token_to_id(self.pad) if self.pad else None
        return self.eos_id if token is None else token

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; special tokens written in it are recognised, none are added."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens without the special ones; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> TextStream:
        """A decoder for tokens that come one by one."""
        return TextStream(self)

    def prompt(
        self, messages: Sequence[Message], thought_prefix: str | None = None, *, template: str = ""
    ) -> tuple[tuple[int, ...], bool]:
        """Tokens of a rendered conversation, and whether they leave a thought open for the model to go on with.

        `template` takes the place of the tokenizer's own for this one prompt.
        """
        jinja = template or require_chat(self)
        text = chat.render(jinja, messages, bos=self.bos, eos=self.eos, thought_prefix=thought_prefix)
        return tuple(self.encode(text)), thought_prefix is not None or chat.opens_thought(text)

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """(prompt, target) tokens of a conversation to learn from; the target ends with the end of sequence."""
        prompt, target = chat.conversation_parts(require_chat(self), messages, bos=self.bos, eos=self.eos)
        return self.encode(prompt), self.encode(target)

    def completion(
        self, tokens: Sequence[int], logprobs: Sequence[float], finish: Finish, *, opened: bool, version: int = 0
    ) -> Completion:
        """Decode what was sampled and take it apart; `opened` is what `prompt` said of the prompt."""
        spoken = tokens[:-1] if tokens and tokens[-1] in self.eos_ids else tokens
        text = self.decode(spoken)
        parts = chat.split(text, opened=opened)
        return Completion(
            text, tuple(tokens), tuple(logprobs), finish, parts.thought, parts.answer, parts.closed, version
        )


class TextStream:
    """Text as tokens come: a character split over tokens appears once it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that is ready now, possibly ""."""
        self._held.append(token)
        text = self._new_text()
        return "" if text.endswith("\ufffd") else self._show(text)

    def close(self) -> str:
        """What was held back; everything returned until now equals `decode` of all tokens."""
        return self._show(self._new_text())

    def _new_text(self) -> str:
        # Some decoders treat the first token specially (a leading space), so decode with what came before.
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._held)[len(before) :]

    def _show(self, text: str) -> str:
        if text:
            self._shown, self._held = self._held, []
        return text


@functools.lru_cache(maxsize=8)
def _size(backend: tokenizers.Tokenizer) -> int:
    """Kept, since it goes through the whole vocabulary, and servers ask with every request of token ids."""
    return max(backend.get_vocab(with_added_tokens=True).values()) + 1


def require_chat(tokenizer: Tokenizer) -> str:
    """The chat template; raises InputError when there is none, or no end of sequence to end a turn with."""
    if tokenizer.template is None:
        raise InputError(
            "the tokenizer has no chat template",
            where=tokenizer.folder,
            hint="put a chat_template.jinja into its folder, or name one: `--template chat`, a recipe's `template`, in "
            "Python Tokenizer.with_template",
        )
    if not tokenizer.eos:
        raise InputError("the tokenizer has no end-of-sequence token", where=tokenizer.folder, hint=EOS_HINT)
    return tokenizer.template


EOS_HINT = 'set "eos_token" in tokenizer_config.json to the token that ends a turn'


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, {} where the file does not exist."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("not a JSON file", where=str(path), found=str(error)) from error
    if not isinstance(found, dict):
        raise InputError("not a JSON object", where=str(path), found=type(found).__name__)
    return found


def _backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        return _converted(folder)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError("tokenizer.json cannot be read", where=str(path), found=str(error)) from error


def _converted(folder: Path) -> tokenizers.Tokenizer:
    """The fast equivalent of a tokenizer that exists only in its original files (vocab.json, tokenizer.model …)."""
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return tokenizers.Tokenizer.from_str(slow.backend_tokenizer.to_str())
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        raise InputError(
            "no tokenizer.json, and transformers cannot make one",
            where=str(folder),
            found=str(error).splitlines()[0],
            hint="add the tokenizer.json of this model to the folder",
        ) from error


def _special(settings: dict[str, Any], name: str) -> str:
    """A special token's text; configurations hold it plain, or as an object with `content`."""
    token = settings.get(name) or ""
    return token["content"] if isinstance(token, dict) else token


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The chat template: its own file wins; of several named ones, the default."""
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _stops(folder: Path) -> frozenset[int]:
    """The ids that end generation, from generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        ids = read_json(folder / name).get("eos_token_id")
        if ids is not None:
            return frozenset(_as_ids(ids))
    return frozenset()


def _as_ids(ids: int | Iterable[int]) -> Iterable[int]:
    return (ids,) if isinstance(ids, int) else ids
