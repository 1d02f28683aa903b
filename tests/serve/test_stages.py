"""A run is served with its stages: the last one under the name that clients know, each opened when it is asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.serve.conftest import ANSWER, CALLS, chat, serving

from thinkery.model.locate import locate
from thinkery.pipeline.files import write_json

PRICES = {"hit": 1, "miss": 2, "completion": 3}


def finished_run(folder: Path, stages: dict[str, Path]) -> None:
    """A run whose stages, in this order, made these models."""
    folder.mkdir(parents=True)
    keys = {name: f"{number:08x}".ljust(64, "0") for number, name in enumerate(stages)}
    graph = [{"name": name, "key": keys[name], "kind": "Model", "inputs": {}} for name in stages]
    write_json(folder / "run.json", {"schema": 1, "id": "x", "created": 0, "seed": 0, "attempts": [], "graph": graph})
    for node in graph:
        made = {"schema": 1, **node, "folder": str(stages[node["name"]]), "done": 1, "total": 1, "seconds": 0}
        step = folder / "steps" / f"{node['name']}-{node['key'][:8]}"
        step.mkdir(parents=True)
        write_json(step / "artifact.json", made)


def said(client, model: str) -> str:
    """What a model answers."""
    return chat(client, "what is red", model=model).json()["choices"][0]["message"]["content"]


def test_the_stages_of_the_demo_are_served_without_naming_it(thinker, caller, tmp_path):
    zero = shutil.copytree(thinker, tmp_path / "zero")
    finished_run(tmp_path / "runs" / "demo", {"base": locate("tiny"), "zero": zero, "align": caller})
    prices = {f"prices.{kind}": {"value": value, "source": "my.toml:3"} for kind, value in PRICES.items()}
    write_json(tmp_path / "runs" / "demo" / "recipe.json", prices)
    weights, away = zero / "model.safetensors", tmp_path / "away"
    weights.rename(away)
    with serving("prices.completion=7", folder=tmp_path) as server, server.client() as client:
        models = client.get("/models").json()["data"]
        assert all(model["pricing"] == PRICES | {"completion": 7} for model in models)
        assert [(model["id"], model["root"]) for model in models] == [
            ("deepseek-reasoner", "demo:align"),
            ("demo:align", "demo:align"),
            ("demo:zero", "demo:zero"),
        ]
        assert said(client, "deepseek-reasoner") == said(client, "demo:align") == CALLS
        away.rename(weights)  # so that it cannot have been opened before
        assert said(client, "demo:zero") == ANSWER
        assert said(client, "deepseek-reasoner") == CALLS
        refused = chat(client, "hi", model="demo:base")
        assert (refused.status_code, refused.json()["error"]["message"]) == (400, "Model Not Exist")
        log = server.log.read_text()
    assert "not served, without a chat template: base\nserving demo:align, demo:zero at http://127.0.0.1:" in log
