"""The embedded world: a procedural universe of problems, small talk and documents in English and Chinese."""

from thinkery.tasks.world.documents import ZERO_TEMPLATE, documents, exercises, textbooks
from thinkery.tasks.world.general import general
from thinkery.tasks.world.listings import listings
from thinkery.tasks.world.problems import problems
from thinkery.tasks.world.programs import programs
from thinkery.tasks.world.rules import follows, has_rule, liked, prefer, quality, refuses_harm, unsafe

__all__ = [
    "ZERO_TEMPLATE",
    "documents",
    "exercises",
    "follows",
    "general",
    "has_rule",
    "liked",
    "listings",
    "prefer",
    "problems",
    "programs",
    "quality",
    "refuses_harm",
    "textbooks",
    "unsafe",
]
