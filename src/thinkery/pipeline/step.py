"""A step is pure data: a function, its settings and the steps it reads; its key decides whether it is already done.

    base = step("base", fetch, cfg.base)
    zeroed = step("zero", zero, cfg.zero, base=base)

A stage is `def zero(run: Run, cfg: Zero, base: Model, judge: Model | None = None) -> Model`. Its annotations are what
`step` checks, before any work. `zero.version = 2` after the function makes everything that depends on it new;
`zero.on_all_ranks = True` has several processes call it together, where other stages are rank 0's alone.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from thinkery.config import Config
from thinkery.errors import WiringError
from thinkery.pipeline.artifact import Artifact


@dataclass(frozen=True, eq=False)
class Step:
    """A named use of a stage function; make it with `step`."""

    name: str
    function: Callable[..., Artifact]
    config: Config | None
    inputs: dict[str, Step] = field(repr=False)
    makes: tuple[type[Artifact], ...]
    """The kinds of artifact that the function may return."""
    key: str
    """Hash of the function's name and version, the settings, and the keys of the inputs; not of code."""

    @property
    def folder(self) -> str:
        """The name of its folder in a run directory."""
        return f"{self.name}-{self.key[:8]}"

    @property
    def version(self) -> int:
        """The function's own version, raised when its results change."""
        return getattr(self.function, "version", 1)

    @property
    def on_all_ranks(self) -> bool:
        """Whether several processes call the function together; a stage that does not say so is rank 0's alone."""
        return getattr(self.function, "on_all_ranks", False)

    @property
    def kind(self) -> str:
        """What it makes, as a word."""
        return _names(self.makes)

    def describe(self) -> dict[str, Any]:
        """What identifies the step, as JSON: for its folder and its artifact's manifest."""
        return {
            "name": self.name,
            "key": self.key,
            "function": _qualified_name(self.function),
            "version": self.version,
            "config": self.config.model_dump(mode="json") if self.config else None,
        }

    def execute(self, run: Any, artifacts: Mapping[str, Artifact]) -> Artifact:
        """Call the function with `artifacts` by input name; an optional input that is not wired is None."""
        declared, _ = _inputs_of(self.function)
        absent = {name: None for name, p in declared.items() if p.default is inspect.Parameter.empty}
        return self.function(run, *([self.config] if self.config else []), **{**absent, **artifacts})


def step(name: str, function: Callable[..., Artifact], config: Config | None = None, **inputs: Step | None) -> Step:
    """Wire a function into a graph; WiringError when name, config or inputs do not fit its annotations."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise WiringError("a step's name is lower-case letters, digits, - and _", found=repr(name))
    given = {key: value for key, value in inputs.items() if value is not None}
    _check_config(name, function, config)
    _check_inputs(name, function, given)
    return Step(name, function, config, given, _made_by(name, function), _key(function, config, given))


def ordered(steps: Mapping[str, Step]) -> list[Step]:
    """The steps and all they read, in the order listed but inputs first; WiringError for cycles and duplicate names."""
    order: dict[str, Step] = {}
    for listed, one in steps.items():
        if listed != one.name:
            raise WiringError(f"is listed as {listed!r}", where=f"step {one.name!r}")
        _visit(one, order, ())
    return list(order.values())


def suggestion(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """The sentence "did you mean 'x'?", or the list of what there is."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(known) or 'none'}"


def counted_settings(config: BaseModel | None) -> Any:
    """What of a config counts for the key: every field, but for what is marked in its `json_schema_extra`.

    `{"key": False}` never counts. `{"key": "when set"}` counts unless it is the default: a setting that came later
    says so, and the steps of older runs keep their keys.
    """
    return _plain(config)


def _visit(one: Step, order: dict[str, Step], path: tuple[Step, ...]) -> None:
    if one in path:
        names = [s.name for s in (*path[path.index(one) :], one)]
        raise WiringError(f"reads its own result: {' ← '.join(names)}", where=f"step {one.name!r}")
    if order.get(one.name, one) is not one:
        raise WiringError("two different steps have this name", where=f"step {one.name!r}")
    if one.name in order:
        return
    for read in one.inputs.values():
        _visit(read, order, (*path, one))
    order[one.name] = one


def _check_config(name: str, function: Callable, config: Config | None) -> None:
    wanted = _config_type(name, function)
    if wanted is None and config is not None:
        raise WiringError(f"{function.__name__} takes no settings", where=f"step {name!r}", found=_a(type(config)))
    if wanted is not None and not isinstance(config, wanted):
        found = _a(type(config)) if config is not None else "none"
        raise WiringError(f"the settings must be {_a(wanted)}", where=f"step {name!r}", found=found)


def _check_inputs(name: str, function: Callable, given: Mapping[str, Step]) -> None:
    where = f"step {name!r}"
    declared, rest = _inputs_of(function)
    hints = _hints(name, function)
    for key, value in given.items():
        if not isinstance(value, Step):
            raise WiringError(f"input {key!r} must be a step", where=where, found=_a(type(value)))
        if key not in declared and rest is None:
            what = f"{function.__name__} has no input {key!r}"
            raise WiringError(what, where=where, hint=suggestion(key, list(declared)))
        wanted = _kinds(hints.get(key if key in declared else rest or "", Artifact))
        if not wanted:
            what = f"input {key!r} of {function.__name__} must be annotated as Model, Dataset or Report"
            raise WiringError(what, where=where)
        if not all(issubclass(made, wanted) for made in value.makes):
            what = (
                f"input {key!r} must be {_names(wanted, _a)}, but step {value.name!r} makes {_names(value.makes, _a)}"
            )
            raise WiringError(what, where=where)
    for key, parameter in declared.items():
        optional = parameter.default is not inspect.Parameter.empty or NoneType in get_args(hints.get(key))
        if key not in given and not optional:
            what = f"input {key!r} is missing; it must be {_names(_kinds(hints.get(key)), _a)}"
            raise WiringError(what, where=where)


def _inputs_of(function: Callable) -> tuple[dict[str, inspect.Parameter], str | None]:
    """The parameters that are inputs, by name, and the name of a `**rest` that takes any more."""
    parameters = list(inspect.signature(function).parameters.values())
    skip = 2 if _config_type(function.__name__, function) else 1
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
    return {p.name: p for p in parameters[skip:] if p.name != rest}, rest


def _config_type(name: str, function: Callable) -> type[Config] | None:
    """The settings class of a function's second parameter, None when that is an input or absent."""
    parameters = list(inspect.signature(function).parameters)
    wanted = _hints(name, function).get(parameters[1]) if len(parameters) > 1 else None
    return wanted if isinstance(wanted, type) and issubclass(wanted, Config) else None


def _made_by(name: str, function: Callable) -> tuple[type[Artifact], ...]:
    kinds = _kinds(_hints(name, function).get("return"))
    if not kinds:
        what = f"{function.__name__} must say what it makes: -> Model, Dataset or Report"
        raise WiringError(what, where=f"step {name!r}")
    return kinds


def _hints(name: str, function: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError as error:
        what = f"the annotations of {function.__name__} cannot be read: {error}"
        raise WiringError(what, where=f"step {name!r}") from error


def _kinds(hint: Any) -> tuple[type[Artifact], ...]:
    """The artifact classes in an annotation such as `Model | None`."""
    options = get_args(hint) or (hint,)
    return tuple(o for o in options if isinstance(o, type) and issubclass(o, Artifact))


def _key(function: Callable, config: Config | None, inputs: Mapping[str, Step]) -> str:
    parts = {
        "function": _qualified_name(function),
        "version": getattr(function, "version", 1),
        "config": counted_settings(config),
        "inputs": {name: one.key for name, one in inputs.items()},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        return {name: _plain(getattr(value, name)) for name, info in fields if _counts(info, getattr(value, name))}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else to_jsonable_python(value)


def _counts(info: FieldInfo, value: Any) -> bool:
    marked = info.json_schema_extra.get("key") if isinstance(info.json_schema_extra, Mapping) else None
    return value != info.get_default(call_default_factory=True) if marked == "when set" else marked is not False


def _qualified_name(function: Callable) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _a(kind: type) -> str:
    return f"a{'n' if kind.__name__[0] in 'AEIO' else ''} {kind.__name__}"


def _names(kinds: tuple[type, ...], word: Callable[[type], str] = lambda kind: kind.__name__) -> str:
    return " or ".join(word(kind) for kind in kinds)
