"""Recipes: graphs of steps in Python, their numbers in TOML beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thinkery.pipeline.step import Step
from thinkery.recipes.claims import Claims, claims
from thinkery.recipes.code import Code, code
from thinkery.recipes.common import RecipeConfig
from thinkery.recipes.distill import DistillRecipe, distill
from thinkery.recipes.own import Own, own
from thinkery.recipes.pretrain import PretrainRecipe, pretrain_bases
from thinkery.recipes.r1 import R1, r1

RECIPES: dict[str, tuple[type[RecipeConfig], Callable[[Any], dict[str, Step]]]] = {
    "r1": (R1, r1),
    "claims": (Claims, claims),
    "code": (Code, code),
    "own": (Own, own),
    "distill": (DistillRecipe, distill),
    "pretrain": (PretrainRecipe, pretrain_bases),
}
"""Graphs by the name that a recipe file gives in `recipe = "…"`, each with the class of its settings."""
