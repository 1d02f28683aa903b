"""From the words of a command line to a checked recipe; shared by run, plan, show and config."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinkery.errors import ConfigError

if TYPE_CHECKING:
    from thinkery.config import Loaded
    from thinkery.pipeline.step import Step
    from thinkery.recipes.common import RecipeConfig


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named graph with its checked settings."""

    name: str
    loaded: Loaded[RecipeConfig]
    draw: Callable[[Any], dict[str, Step]]

    @property
    def config(self) -> RecipeConfig:
        """The checked settings."""
        return self.loaded.config

    def graph(self) -> dict[str, Step]:
        """Every step by name; WiringError where they do not fit, ConfigError where the recipe expects another."""
        steps = self.draw(self.config)
        self.config.expected.require_steps(steps)
        return steps

    def record(self) -> dict[str, dict[str, Any]]:
        """Every setting with its value and where that came from, for the run's `recipe.json`."""
        from thinkery import config

        return {key: {"value": r.value, "source": r.source} for key, r in config.resolved(self.loaded).items()}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The words that choose a recipe."""
    parser.add_argument("recipe", metavar="RECIPE", help="a .toml file, or a shipped name such as tiny or smollm2")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, such as zero.grpo.updates=200")
    parser.add_argument(
        "-c", "--config", action="append", default=[], metavar="FILE", help="more settings, over RECIPE's"
    )


def read_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe that parsed arguments name, with files, environment and command line merged."""
    return open_recipe([args.recipe, *args.config], args.settings)


def sampling_on(args: argparse.Namespace, address: str) -> Recipe:
    """The recipe with every engine on the Ray cluster at an address, but for those that a setting puts elsewhere."""
    from thinkery import config

    engines = [key for key in config.resolved(read_recipe(args).loaded) if key.endswith("engine.ray")]
    return open_recipe([args.recipe, *args.config], [*(f'{key}="{address}"' for key in engines), *args.settings])


def open_recipe(files: Sequence[str], settings: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Recipe:
    """The recipe of merged files; its `recipe = "…"` says which graph they set."""
    from thinkery import config

    layers = config.read_layers(files, settings, os.environ if environ is None else environ)
    from thinkery.recipes import RECIPES

    graph = layers.header.get("recipe", "r1")
    if graph not in RECIPES:
        raise ConfigError(
            "no such graph", where=f"{files[0]}: recipe", found=graph, hint=f"one of {', '.join(RECIPES)}"
        )
    kind, draw = RECIPES[graph]
    return Recipe(Path(files[0]).stem, config.Loaded(config.check(kind, layers), layers.sources, layers.header), draw)
