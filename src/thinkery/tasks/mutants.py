"""Bug-fix tasks made from working functions: one small mistake each, which hidden tests are proven to find.

    mutants(seed=0)     # Task(kind="software") over MBPP, needs THINKERY_DATA and the sandbox

Sources are the training part of MBPP (ids 601-974; Austin et al. 2021, CC BY 4.0) without the problems that the
sanitized set kept or the test part asks as well, so that nothing here is in an exam. A mistake is one change of the
syntax tree: an operator, a comparison, an edge, a constant, two arguments, a condition, a dropped statement. It
counts only when the sandbox shows that every test passes before and at least one fails after; what never ends is left
out, and so are functions whose original fails. The tests are hidden; the issue quotes the one call that goes wrong
and what it should give.
"""

from __future__ import annotations

import ast
import copy
import itertools
import random
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from thinkery.core import Task
from thinkery.sandbox import Asserts, Limits, Pool, Program, Result, run_tests, shared_pool
from thinkery.tasks.public import mbpp_train

PROOF_LIMITS = Limits(cpu_s=1, wall_s=10)

_SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Div: (ast.FloorDiv, ast.Mult),
    ast.FloorDiv: (ast.Div, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


@dataclass(frozen=True, slots=True)
class Original:
    """A working function: its source, what it is for, and assertions that it satisfies."""

    id: str
    purpose: str
    source: str
    setup: str
    tests: tuple[str, ...]


def mutants(seed: int = 0, limit: int | None = None, pool: Pool | None = None) -> Iterator[Task]:
    """At most one proven task per function, in the order of the functions; `seed` picks the mistakes."""
    pool = pool or shared_pool()
    originals = list(mbpp_originals())[:limit]
    for task in pool.map(lambda original: mutant_of(original, seed, pool), originals):
        if task:
            yield task


def mbpp_originals() -> Iterator[Original]:
    """The functions of MBPP that may be trained on and are in no evaluation set."""
    for _, row in mbpp_train():
        source = row["code"].replace("\r\n", "\n").expandtabs(4)
        yield Original(f"mbpp-{row['task_id']}", row["text"], source, row["test_setup_code"], tuple(row["test_list"]))


def mutant_of(original: Original, seed: int, pool: Pool, attempts: int = 8) -> Task | None:
    """A proven task from one function, None where the function fails its own tests or no mistake is found by them."""
    whole = normal_form(original.source)
    if whole is None:
        return None
    module = original.id.replace("-", "_")
    path, tests = f"{module}.py", _hidden_tests(original, module)
    if _judge({path: whole}, tests, pool).verdict != "pass":
        return None
    candidates = list(mutations(whole))
    rng = random.Random(f"mutants/{seed}/{original.id}")
    for mistake, source in rng.sample(candidates, min(attempts, len(candidates))):
        result = _judge({path: source}, tests, pool)
        if result.verdict in ("wrong", "error"):
            return _task(original, {path: source}, whole, tests, mistake, result.detail)
    return None


def normal_form(source: str) -> str | None:
    """Source as it is written back from its syntax tree, None where it does not parse; so a mutant shows one change."""
    try:
        return ast.unparse(ast.parse(source)) + "\n"
    except SyntaxError:
        return None


def mutations(source: str) -> Iterator[tuple[str, str]]:
    """(what was done, source) of every single mistake that can be made; no two sources are the same."""
    tree = ast.parse(source)
    seen = {ast.unparse(tree) + "\n"}
    for place in _places(tree):
        what, text = _with_mistake(tree, *place)
        if text not in seen:
            seen.add(text)
            yield what, text


def mutation(source: str, rng: random.Random) -> tuple[str, str] | None:
    """One mistake drawn from all that can be made, as (what was done, source); None where there are none."""
    tree = ast.parse(source)
    places = _places(tree)
    return _with_mistake(tree, *rng.choice(places)) if places else None


def software_prompt(issue: str, files: Mapping[str, str]) -> str:
    """What a software task asks: the issue, the files, and how to answer (rewards/software.py reads it)."""
    shown = "\n\n".join(f"```python {path}\n{text.rstrip()}\n```" for path, text in files.items())
    how = "Answer with a unified diff in a ```diff block, or with each changed file in a block that names its path."
    return f"{issue.rstrip()}\n\n{shown}\n\n{how}"


# ---- one mistake

Change = tuple[str, Callable[[], None]]


def _places(tree: ast.Module) -> list[tuple[int, int]]:
    """(number of a node in the order of `ast.walk`, number of a change at it) of every mistake."""
    return [(i, number) for i, node in enumerate(ast.walk(tree)) for number in range(len(_changes(node)))]


def _with_mistake(tree: ast.Module, position: int, number: int) -> tuple[str, str]:
    """What was done, and the source of a copy of the tree with this mistake."""
    changed = copy.deepcopy(tree)
    what, change = _changes(next(itertools.islice(ast.walk(changed), position, None)))[number]
    change()
    return what, ast.unparse(ast.fix_missing_locations(changed)) + "\n"


def _changes(node: ast.AST) -> list[Change]:
    """Every small mistake that can be made at one node, as (its name, the function that makes it)."""
    changes: list[Change] = []
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        changes += [_set(node, "op", new(), "operator") for new in _SWAPS.get(type(node.op), ())]
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            changes += [_set_item(node.ops, i, new(), "comparison") for new in _SWAPS.get(type(op), ())]
    elif isinstance(node, ast.Constant):
        changes += [_set(node, "value", value, "constant") for value in _other_constants(node.value)]
    elif isinstance(node, ast.Call):
        changes += _call_changes(node)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        changes.append(_set(node, "test", ast.UnaryOp(ast.Not(), node.test), "condition"))
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        if isinstance(block, list) and not isinstance(node, ast.Module):
            droppable = (i for i, statement in enumerate(block) if isinstance(statement, ast.Assign | ast.AugAssign))
            changes += [_set_item(block, i, ast.Pass(), "dropped statement") for i in droppable]
    return changes


def _call_changes(node: ast.Call) -> list[Change]:
    changes: list[Change] = []
    if isinstance(node.func, ast.Name) and node.func.id == "range":
        last = len(node.args[:2]) - 1
        for op in (ast.Add(), ast.Sub()):
            changes.append(_set_item(node.args, last, ast.BinOp(node.args[last], op, ast.Constant(1)), "off by one"))
    elif len(node.args) == 2 and not any(isinstance(arg, ast.Starred) for arg in node.args):
        changes.append(_set(node, "args", node.args[::-1], "swapped arguments"))
    return changes


def _other_constants(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    return [value + 1, value - 1] if isinstance(value, int) else []


def _set(node: ast.AST, name: str, value: object, what: str) -> Change:
    return what, lambda: setattr(node, name, value)


def _set_item(items: list, index: int, value: object, what: str) -> Change:
    return what, lambda: items.__setitem__(index, value)


# ---- the task


def _hidden_tests(original: Original, module: str) -> str:
    """Each assertion as a test of its own, after the imports and the preparation that all of them need."""
    used = {
        node.id
        for node in ast.walk(ast.parse("\n".join((original.setup, *original.tests))))
        if isinstance(node, ast.Name)
    }
    names = [node.name for node in ast.parse(original.source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    wanted = ", ".join(dict.fromkeys(name for name in names if name in used))
    lines = [f"from {module} import {wanted}", original.setup.replace("\r\n", "\n")]
    for number, test in enumerate(original.tests, start=1):
        lines.append(f"def test_{number}():\n" + textwrap.indent(test, "    "))
    return "\n".join(lines) + "\n"


def _judge(files: Mapping[str, str], tests: str, pool: Pool) -> Result:
    return run_tests(Program(files=files, limits=PROOF_LIMITS), [Asserts(tests)], pool)


def _task(original: Original, files: dict[str, str], solution: str, tests: str, mistake: str, detail: str) -> Task:
    failing = next((test for test in original.tests if test[:200] in detail), original.tests[0])
    issue = f"The code below is meant for this: {original.purpose}\nIt has a bug. This does not hold:\n\n    {failing}"
    info = {"files": files, "test": tests, "mistake": mistake, "solution": solution}
    return Task(f"mutants/{original.id}", software_prompt(issue, files), "software", None, "en", "mutants", info=info)
