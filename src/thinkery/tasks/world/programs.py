"""The embedded world's short Python functions: to be written to a request, or repaired; hidden tests judge both.

    code (code)        Write pick(xs). Return the sum of x times 3 for each x above 4.
    fix  (software)    Repair pick(xs). … pick([4, 7]) gives 33, not 21.      and the file with one mistake in it

Functions are expressions over a number, a list of numbers or a sentence, put together from parts that a request may
say in several ways. A problem belongs to the held-out split by a hash of its expression, the order of conditions
ignored: no held-out function is ever asked for in training or in the corpus, under any name and in any words.

Expected results come from running our own expressions in this process; what a model writes runs in the sandbox only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

from thinkery.core import Task
from thinkery.tasks.mutants import mutation
from thinkery.tasks.world.problems import HELD_OUT_SHARE, Split

ProgramKind = Literal["code", "fix"]
PROGRAM_KINDS: tuple[ProgramKind, ...] = ("code", "fix")
NAMES = ("pick", "make", "work", "find", "solve", "build", "fetch", "keep", "form", "draw", "read", "gain")
PATH = "tools.py"
"""The file that a function to be repaired stands in."""
INPUTS = 12
"""Inputs that an original and a mutant are tried on; all of them, but for the one that an issue tells, are tests."""

WORDS = (
    "ant", "bear", "bird", "book", "cat", "coal", "cow", "day", "deer", "dog", "door", "eel", "fire", "fish", "gold",
    "grass", "hand", "horse", "ink", "kite", "lake", "lamb", "leaf", "milk", "moon", "owl", "pen", "pond", "rain",
    "rice", "river", "road", "salt", "sand", "sea", "ship", "snow", "star", "sun", "tea", "tree", "wind", "wolf",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an expression, and the ways to say it."""

    code: str
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """What holds the parts together; {0} and {1} are values, {test} is a condition. `plan` is how a thought puts it."""

    code: str
    said: str
    plan: str


@dataclass(frozen=True, slots=True)
class Family:
    """Functions of one kind of argument."""

    argument: str
    frames: tuple[Frame, ...]
    values: tuple[Part, ...]
    tests: tuple[Part, ...]
    values_needed: int
    example: Callable[[random.Random, str], Any]
    """Draws an argument for an expression."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A function: one value (two where there is an else) and one or two conditions in a frame."""

    family: Family
    frame: Frame
    values: tuple[Part, ...]
    tests: tuple[Part, ...]

    @property
    def expression(self) -> str:
        """What the function returns, as Python."""
        return self._filled(self.frame.code, [test.code for test in self.tests])

    @property
    def canonical(self) -> str:
        """The expression without the order of its conditions."""
        return self._filled(self.frame.code, sorted(test.code for test in self.tests))

    @property
    def plan(self) -> str:
        """The parts by their code, which is what there is to think about before the function is written."""
        return self._filled(self.frame.plan, [test.code for test in self.tests])

    @property
    def held_out(self) -> bool:
        """Whether this function is kept for evaluation."""
        digest = blake2b(self.canonical.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64

    def request(self, rng: random.Random) -> str:
        """The function in words."""
        values = [rng.choice(value.said) for value in self.values]
        return self.frame.said.format(*values, test=" and ".join(rng.choice(test.said) for test in self.tests))

    def source(self, name: str) -> str:
        """The function as a file."""
        return f"def {name}({self.family.argument}):\n    return {self.expression}\n"

    def examples(self) -> list[Any]:
        """Different arguments, always the same for a problem."""
        rng = random.Random(f"examples/{self.canonical}")
        found: dict[str, Any] = {}
        while len(found) < INPUTS:
            argument = self.family.example(rng, self.expression)
            found[repr(argument)] = argument
        return list(found.values())

    def _filled(self, template: str, tests: Sequence[str]) -> str:
        return template.format(*(value.code for value in self.values), test=" and ".join(tests))


# ---- the parts


def _parts(code: str, *said: str, constants: Iterable[int | str] = ("",)) -> list[Part]:
    """One part for every constant k."""
    return [Part(code.format(k=k), tuple(one.format(k=k) for one in said)) for k in constants]


def _number_tests(v: str) -> tuple[Part, ...]:
    return (
        *_parts(f"{v} > {{k}}", "above {k}", "greater than {k}", constants=range(1, 10)),
        *_parts(f"{v} < {{k}}", "below {k}", "less than {k}", constants=range(1, 10)),
        *_parts(f"{v} % {{k}} == 0", "divisible by {k}", "a multiple of {k}", constants=range(3, 8)),
        *_parts(f"{v} != {{k}}", "not {k}", "other than {k}", constants=range(1, 10)),
        *_parts(f"{v} % 2 == 0", "even"),
        *_parts(f"{v} % 2 == 1", "odd"),
    )


def _number_values(v: str) -> tuple[Part, ...]:
    return (
        *_parts(f"{v} + {{k}}", f"{v} plus {{k}}", f"{v} increased by {{k}}", constants=range(1, 10)),
        *_parts(f"{v} - {{k}}", f"{v} minus {{k}}", f"{v} decreased by {{k}}", constants=range(1, 10)),
        *_parts(f"{v} * {{k}}", f"{v} times {{k}}", f"{{k}} times {v}", constants=range(2, 10)),
        *_parts(f"{v} * {v}", f"{v} squared", f"the square of {v}"),
    )


_WORD_TESTS = (
    *_parts("len(w) > {k}", "longer than {k}", "of more than {k} letters", constants=range(2, 5)),
    *_parts("len(w) < {k}", "shorter than {k}", "of less than {k} letters", constants=range(3, 6)),
    *_parts("w.startswith('{k}')", "starting with {k}", "beginning with {k}", constants="bcdflrstw"),
    *_parts("w.endswith('{k}')", "ending with {k}", "with {k} at the end", constants="dehlnrtw"),
    *_parts("'{k}' in w", "containing {k}", "with {k} in it", constants="adeilnors"),
)
_WORD_VALUES = (
    *_parts("w.upper()", "w in capitals", "w in upper case"),
    *_parts("w[::-1]", "w reversed", "w backwards"),
    *_parts("w * {k}", "w {k} times", "{k} copies of w", constants=(2, 3)),
    *_parts("w[:{k}]", "the first {k} letters of w", "{k} letters of w", constants=(2, 3)),
    *_parts("w[1:]", "w without its first letter", "w after its first letter"),
)


def _over(variable: str, sequence: str, code: str, said: str, plan: str) -> Frame:
    """A frame around the values of a list comprehension, which stands where `code` has {}."""
    listed = f"[{{0}} for {variable} in {sequence} if {{test}}]"
    return Frame(code.format(listed), f"{said} {{0}} for each {variable} {{test}}", f"{{0}} if {{test}}, {plan}")


def _near(rng: random.Random, expression: str) -> int:
    """A number, often next to one that the expression compares with."""
    constants = [int(k) for k in re.findall(r"\d+", expression)]
    return rng.choice(constants) + rng.randint(-1, 1) if rng.random() < 0.5 else rng.randint(-5, 20)


def _numbers(rng: random.Random, expression: str) -> list[int]:
    return [_near(rng, expression) for _ in range(rng.randint(2, 6))]


def _sentence(rng: random.Random, expression: str) -> str:
    """Words, half of them with a letter that the expression asks for."""
    letters = re.findall(r"'(\w)'", expression)
    fitting = [word for word in WORDS if any(letter in word for letter in letters)] or WORDS
    return " ".join(rng.choice(WORDS if rng.random() < 0.5 else fitting) for _ in range(rng.randint(2, 5)))


FAMILIES = (
    Family(
        "n",
        (Frame("{0} if {test} else {1}", "{0} if n is {test}, else {1}", "{0} if {test}, else {1}"),),
        _number_values("n"), _number_tests("n"), 2, _near,
    ),
    Family(
        "xs",
        (
            _over("x", "xs", "{}", "the list of", "listed"),
            _over("x", "xs", "sum({})", "the sum of", "added up"),
            _over("x", "xs", "sorted({})", "the sorted list of", "sorted"),
            _over("x", "xs", "max({}, default=0)", "the largest of 0 and", "the largest"),
            _over("x", "xs", "len(set({}))", "the number of different values of", "different ones counted"),
        ),
        _number_values("x"), _number_tests("x"), 1, _numbers,
    ),
    Family(
        "s",
        (
            _over("w", "s.split()", "{}", "the list of", "listed"),
            _over("w", "s.split()", "sorted({})", "the sorted list of", "sorted"),
            _over("w", "s.split()", "' '.join({})", "the text of", "joined"),
            _over("w", "s.split()", "len(set({}))", "the number of different values of", "different ones counted"),
        ),
        _WORD_VALUES, _WORD_TESTS, 1, _sentence,
    ),
)  # fmt: skip


# ---- problems and tasks


def draw(rng: random.Random, split: Split) -> Problem:
    """A random problem of one split, also one whose conditions contradict each other."""
    while True:
        family = rng.choice(FAMILIES)
        values = tuple(rng.sample(family.values, family.values_needed))
        tests = tuple(rng.sample(family.tests, rng.choice((1, 2))))
        problem = Problem(family, rng.choice(family.frames), values, tests)
        if problem.held_out == (split == "held-out"):
            return problem


def draw_clear(rng: random.Random, split: Split) -> Problem:
    """A random problem of one split whose examples show what each of its conditions does."""
    while not is_clear(problem := draw(rng, split)):
        pass
    return problem


def is_clear(problem: Problem) -> bool:
    """Whether its examples have several results and tell a problem from the one without a condition or turned round."""
    examples = problem.examples()
    others = [replace(problem, tests=problem.tests[i : i + 1]) for i in range(len(problem.tests))]
    others += [replace(problem, values=problem.values[::-1])]
    results = [repr(outcomes(one.source("f"), "f", examples)) for one in others if one != problem]
    right = outcomes(problem.source("f"), "f", examples)
    return len(set(map(repr, right))) >= 3 and repr(right) not in results


def outcomes(source: str, name: str, arguments: Sequence[Any]) -> list[Any]:
    """What a function of this module's own making returns for each argument, or the exception that it raises."""
    namespace: dict[str, Any] = {}
    exec(compile(source, PATH, "exec"), namespace)
    return [_outcome(namespace[name], argument) for argument in arguments]


def _outcome(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except Exception as error:
        return error


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake in a function, the call that an issue tells of it, and other calls, some of which go wrong as well."""

    mutant: str
    told: str
    calls: list[tuple[Any, Any]]
    """(argument, right result)."""


def break_it(problem: Problem, name: str, rng: random.Random) -> Bug | None:
    """One mistake that at least two of the problem's examples show; None where one try does not find such a one."""
    made = mutation(problem.source(name), rng)
    if made is None:
        return None
    examples = problem.examples()
    right = outcomes(problem.source(name), name, examples)
    found = outcomes(made[1], name, examples)
    shown = [i for i, (a, b) in enumerate(zip(right, found, strict=True)) if repr(a) != repr(b)]
    if len(shown) < 2:
        return None
    first = min(shown, key=lambda i: len(f"{examples[i]!r}{right[i]!r}"))
    told = f"{name}({examples[first]!r}) {_gives(found[first])}, not {right[first]!r}."
    return Bug(made[1], told, [pair for i, pair in enumerate(zip(examples, right, strict=True)) if i != first])


def _gives(outcome: Any) -> str:
    return f"raises {type(outcome).__name__}" if isinstance(outcome, Exception) else f"gives {outcome!r}"


def code_prompt(problem: Problem, name: str, request: str) -> str:
    """A function to be written."""
    return f"Write {name}({problem.family.argument}). Return {request}."


def fix_prompt(problem: Problem, name: str, request: str, bug: Bug) -> str:
    """A function to be repaired: what it is for, what goes wrong, and the file."""
    purpose = f"Repair {name}({problem.family.argument}). Return {request}."
    return f"{purpose}\n{bug.told}\n```python {PATH}\n{bug.mutant}```"


def code_task(problem: Problem, name: str, rng: random.Random) -> Task:
    """A task of kind "code"."""
    examples = problem.examples()
    results = outcomes(problem.source(name), name, examples)
    tests = [
        {"function": name, "arguments": [argument], "result": result}
        for argument, result in zip(examples, results, strict=True)
    ]
    return _task("code", "code", code_prompt(problem, name, problem.request(rng)), problem, name, {"tests": tests})


def fix_task(problem: Problem, name: str, rng: random.Random) -> Task | None:
    """A task of kind "software"; None where one try makes no mistake that tests find."""
    bug = break_it(problem, name, rng)
    if bug is None:
        return None
    calls = "".join(f"\ndef test_{i}():\n    assert {name}({a!r}) == {b!r}\n" for i, (a, b) in enumerate(bug.calls))
    info = {"files": {PATH: bug.mutant}, "test": f"from tools import {name}\n{calls}"}
    return _task("fix", "software", fix_prompt(problem, name, problem.request(rng), bug), problem, name, info)


def _task(name: ProgramKind, kind: str, prompt: str, problem: Problem, function: str, info: dict[str, Any]) -> Task:
    digest = blake2b(prompt.encode(), digest_size=6).hexdigest()
    return Task(
        f"world/{name}/{digest}", prompt, kind, block(problem.source(function)), "en", f"world/{name}",
        info=info | {"difficulty": len(problem.tests)},
    )  # fmt: skip


def block(source: str, info: str = "python") -> str:
    """A text in a fence."""
    return f"```{info}\n{source}```"


def programs(split: Split, seed: int, count: int, *, kinds: Sequence[ProgramKind] = PROGRAM_KINDS) -> Iterator[Task]:
    """`count` different tasks, kinds evenly mixed, always the same for a seed."""
    rng = random.Random(f"programs/{split}/{seed}")
    makers = {"code": code_task, "fix": fix_task}
    seen: set[str] = set()
    while len(seen) < count:
        made = makers[kinds[len(seen) % len(kinds)]](draw_clear(rng, split), rng.choice(NAMES), rng)
        if made and made.id not in seen:
            seen.add(made.id)
            yield made
