"""`thinkery serve`: models over HTTP, as the DeepSeek API; without a name, the model that the demo made."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from thinkery.cli import models, terminal
from thinkery.errors import EnvironmentLacks, InputError

if TYPE_CHECKING:
    from thinkery.config import Loaded
    from thinkery.serve.config import Serve
    from thinkery.serve.replica import Served

DEMO = models.RUNS / "demo"
LEDGER = models.RUNS / "serve.db"
NEEDED = ("fastapi", "uvicorn", "uvloop", "httptools", "prometheus-client")
"""The packages that the extra `serve` installs."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to serve, and settings of the server."""
    parser.add_argument("model", nargs="?", default="", metavar="MODEL", help=f"{models.NAMES}; default: {DEMO}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="such as port=9000, limits.queue_s=30")
    parser.add_argument("--config", type=Path, action="append", default=[], help="a TOML file of settings")
    parser.add_argument("--host", help="address to listen at (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen at (default 8000)")
    parser.add_argument("--api-profile", help="compat (default), r1-2025-01 or r1-0528")
    parser.add_argument("--engine", help="native (default) or vllm; vllm.python=PATH names the Python that has vLLM")
    parser.add_argument("--replicas", type=int, help="engine processes (default 1)")
    parser.add_argument("--print-env", action="store_true", help="print the variables that clients read, and stop")
    parser.add_argument(
        "--safety-model",
        metavar="MODEL",
        help="withhold what this model (RUN:harmless) finds unsafe; or risk.judge.url=…",
    )
    ledger_argument(parser)
    parser.add_argument(
        "--template", default="", help="a chat template: r1-zero, chat, or a Jinja file (default: the model's)"
    )


def ledger_argument(parser: argparse.ArgumentParser) -> None:
    """Where keys and bills are."""
    parser.add_argument("--ledger", type=Path, default=LEDGER, help=f"file of keys and bills (default {LEDGER})")


def main(args: argparse.Namespace) -> None:
    """Serve until a signal."""
    require_installed()
    from thinkery.config import load
    from thinkery.serve.config import Serve
    from thinkery.serve.server import serve

    if "=" in args.model and not Path(args.model).exists():  # no model was named, and this is a setting
        args.settings, args.model = [args.model, *args.settings], ""
    given = ("host", "port", "api_profile", "engine", "replicas")
    options = [f"{name}={getattr(args, name)}" for name in given if getattr(args, name) is not None]
    if args.safety_model:
        options.append(f"risk.model={models.find_model(args.safety_model).resolve()}")
    loaded = load(Serve, args.config, [*args.settings, *options], os.environ)
    cfg, model = loaded.config, args.model or str(DEMO)
    if args.print_env:
        print("\n".join(f"export {name}={value}" for name, value in environment(cfg.host, cfg.port).items()))
        return
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("thinkery.serve").setLevel(logging.INFO)
    with ExitStack() as stack:
        served = served_models(model, args.template, stack)
        serve(served, priced(loaded, model), args.ledger, on_ready=lambda address: tell(address, served))


def priced(loaded: Loaded[Serve], name: str) -> Serve:
    """The settings of the server, with the prices of a run's recipe where nothing else sets them."""
    from thinkery.config import source_of
    from thinkery.pipeline.read import open_run

    recipe = open_run(Path(name)).recipe if models.is_run(Path(name)) else {}
    keys = {f"prices.{kind}": kind for kind in type(loaded.config.prices).model_fields}
    own = {keys[key]: recipe[key]["value"] for key in recipe.keys() & keys.keys()}
    own = {kind: value for kind, value in own.items() if source_of(loaded.sources, f"prices.{kind}") == "default"}
    return loaded.config.model_copy(update={"prices": loaded.config.prices.model_copy(update=own)})


def environment(host: str, port: int) -> dict[str, str]:
    """The variables in which common clients look for the server; the key is any word where there are no keys."""
    address, key = f"http://{addressed(host)}:{port}", "YOUR-KEY"
    return {
        "DEEPSEEK_API_KEY": key,
        "DEEPSEEK_BASE_URL": f"{address}/v1",  # inspect-ai
        "DEEPSEEK_API_BASE": f"{address}/v1",  # langchain-deepseek
        "OPENAI_API_KEY": key,
        "OPENAI_BASE_URL": f"{address}/v1",  # openai, pydantic-ai, openai-agents
    }


def addressed(host: str) -> str:
    """A host as clients on this machine address it, also where the server listens at every address."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    if ip.version == 4:
        return "127.0.0.1" if ip.is_unspecified else host
    return "[::1]" if ip.is_unspecified else f"[{host}]"


def require_installed() -> None:
    """Raise EnvironmentLacks where the extra is missing."""
    lacking = [name for name in NEEDED if not importlib.util.find_spec(name.replace("-", "_"))]
    if lacking:
        what = f"the server needs {', '.join(lacking)}"
        raise EnvironmentLacks(what, hint="pip install 'thinkery[serve]'")


def served_models(name: str, template: str, stack: ExitStack) -> list[Served]:
    """The named model; of a run, all stages that can hold a conversation, the last one first."""
    from thinkery.model.tokenizer import Tokenizer
    from thinkery.serve.replica import Served

    text = models.read_template(template) if template else ""
    if not models.is_run(Path(name)):
        if name == str(DEMO):
            raise InputError("the demo has not been run here", where=name, hint="make demo, or name a model")
        return [Served(name, stack.enter_context(models.model_folder(name)), text)]
    stages = models.stages_of_run(Path(name))
    chatting = [stage for stage in reversed(stages) if text or Tokenizer.load(stages[stage]).template]
    if not chatting:
        raise InputError("no model of this run has a chat template", where=name, hint="--template chat")
    silent = [stage for stage in stages if stage not in chatting]
    if silent:
        terminal.remark(f"not served, without a chat template: {', '.join(silent)}")
    return [Served(f"{Path(name).name}:{stage}", stages[stage], text) for stage in chatting]


def tell(address: str, served: Sequence[Served]) -> None:
    """Say where the server is and what it serves."""
    terminal.remark(f"serving {', '.join(model.name for model in served)} at {address}")
    sys.stderr.flush()
