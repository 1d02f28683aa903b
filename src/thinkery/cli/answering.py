"""Who answers, and who judges: a model by name or an OpenAI-style endpoint, as the command line says it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thinkery.cli import models, terminal
from thinkery.errors import UsageError

if TYPE_CHECKING:
    from thinkery.engine import Engine
    from thinkery.engine.http import HttpConfig

ENDPOINT = {
    "url": (str, 'address before "/chat/completions", such as https://api.deepseek.com/v1'),
    "model-name": (str, "the model, as the endpoint knows it"),
    "key-env": (str, "the environment variable that holds the API key (default: no key)"),
    "price-in": (float, "price of a million prompt tokens"),
    "price-out": (float, "price of a million completion tokens"),
    "max-cost": (float, "what this command may spend there; a request that could exceed it is not sent"),
    "replies": (str, "a file that keeps every reply, so that nothing is asked and paid for twice"),
    "concurrency": (int, "requests under way at the same time (default 16)"),
}
"""The options of an endpoint; those of the judge's begin with `judge-`."""


@dataclass(frozen=True, slots=True)
class Answerer:
    """A model by name, with a template of another name where one is given, or an endpoint."""

    name: str = ""
    template: str = ""
    endpoint: HttpConfig | None = None
    on: str = ""
    """The Ray cluster that samples from a model; empty where this process does."""

    @property
    def title(self) -> str:
        """What it is called."""
        return self.endpoint.model if self.endpoint else self.name

    def identity(self) -> dict[str, Any]:
        """What decides its answers, as JSON: of a model all bytes by hash, of an endpoint its address and name."""
        from thinkery.pipeline.step import counted_settings

        if self.endpoint:
            return {"endpoint": counted_settings(self.endpoint)}
        text = models.read_template(self.template) if self.template else ""
        return {"name": self.name, "content": content_of(self.name), "template": self.template, "template_text": text}

    @contextmanager
    def open(self) -> Iterator[Engine]:
        """Its engine; says at the end what an endpoint was asked for."""
        if self.endpoint is None:
            opened = models.open_model_on(self.on, self.name, self.template) if self.on else None
            with opened or models.open_model(self.name, self.template) as engine:
                yield engine
            return
        from thinkery.engine.http import HttpEngine

        engine = HttpEngine(self.endpoint)
        try:
            yield engine
        finally:
            engine.release()
            used = engine.usage
            tokens = f"{used.prompt_tokens} + {used.completion_tokens} tokens"
            cost = f", cost {used.cost:.4g}" if used.cost else ""
            terminal.remark(f"{self.endpoint.url}: {used.requests} requests ({used.retries} again), {tokens}{cost}")


def endpoint_arguments(parser: argparse._ArgumentGroup, prefix: str = "") -> None:
    """The options of an endpoint, under a prefix."""
    for name, (kind, about) in ENDPOINT.items():
        metavar = name.rpartition("-")[2].upper() if kind is str else "N"
        parser.add_argument(f"--{prefix}{name}", type=kind, metavar=metavar, help=about)
    parser.add_argument(
        f"--{prefix}opens-thought", action="store_true", help="the endpoint's texts begin inside the thought"
    )


def answerer(args: argparse.Namespace, prefix: str = "", *, name: str = "", template: str = "") -> Answerer | None:
    """Who the arguments name: the endpoint of these options, else the model `name`; None for nobody."""
    from thinkery.engine.http import HttpConfig

    given = {option: getattr(args, f"{prefix}{option}".replace("-", "_")) for option in ENDPOINT}
    given = {option: value for option, value in given.items() if value is not None}
    if not given:
        return Answerer(name, template, on=args.on) if name else None
    if name or template:
        raise UsageError("an endpoint has its own model and template", found=name or template)
    if not {"url", "model-name"} <= given.keys():
        what = "an endpoint needs an address and the name of a model"
        raise UsageError(what, hint=f"--{prefix}url URL --{prefix}model-name NAME")
    if "max-cost" in given and not given.keys() & {"price-in", "price-out"}:
        raise UsageError("a cost cap needs prices", hint=f"--{prefix}price-in and --{prefix}price-out")
    renamed = {"model-name": "model", "key-env": "key"}
    settings = {renamed.get(option, option.replace("-", "_")): value for option, value in given.items()}
    opens = getattr(args, f"{prefix}opens_thought".replace("-", "_"))
    return Answerer(endpoint=HttpConfig(**settings, opens_thought=opens))


def read_answerer(identity: Mapping[str, Any], on: str) -> Answerer:
    """Who `identity` describes, on a Ray cluster where an address of one is given."""
    from thinkery.engine.http import HttpConfig

    if "endpoint" in identity:
        return Answerer(endpoint=HttpConfig(**identity["endpoint"]))
    return Answerer(identity["name"], identity["template"], on=on)


def content_of(name: str) -> str:
    """One hash over every byte of a named model, which must be one that can be opened."""
    from thinkery.model.hf import check_model
    from thinkery.pipeline.artifact import content_hash
    from thinkery.pipeline.files import hash_file, hash_folder

    found = models.find_model(name)
    if found.is_dir():
        check_model(found)  # a large one takes minutes to read
    return content_hash({found.name: hash_file(found)} if found.is_file() else hash_folder(found))
