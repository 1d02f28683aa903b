"""Settings: frozen, strict, documented where they are read; and how a recipe's TOML becomes one.

    defaults  <  preset (`extends = "tiny"`)  <  files, left to right  <  environment  <  command line

The environment sets `zero.grpo.updates` by `THINKERY_SET_zero__grpo__updates=200`, the command line by
`zero.grpo.updates=200`. Both values are TOML; what is not TOML and starts no string, list or table is a string.
Tables merge key by key, also over the defaults; any other value replaces the one below it. `recipe` and `extends` at
the top of a file say which graph it sets and which file or preset it starts from; they are not settings.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from thinkery.errors import ConfigError, InputError

PRESETS = Path(__file__).parent / "recipes"
ENVIRONMENT = "THINKERY_SET_"
HEADER = ("recipe", "extends")
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's words for a key that does not exist


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused, the string under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True)
class Layers:
    """Raw values merged from every source: `sources` maps dotted keys to where their value was set."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """Checked settings; `sources` maps the dotted keys that were set to where, all others are defaults."""

    config: C
    sources: Mapping[str, str]
    header: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Resolved:
    """The value of one setting and where it came from."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Explained:
    """What one setting is: its type and default as text, its documentation, its value and where it came from."""

    key: str
    type: str
    default: str
    doc: str
    value: Any
    source: str


def load(
    kind: type[C],
    files: Sequence[Path | str] = (),
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded[C]:
    """Merge files, `environ` and `key=value` overrides over the defaults of `kind`; all problems in one ConfigError."""
    layers = read_layers(files, overrides, environ or {})
    return Loaded(check(kind, layers), layers.sources, layers.header)


def read_layers(files: Sequence[Path | str], overrides: Sequence[str], environ: Mapping[str, str]) -> Layers:
    """Merge every source in order of precedence, without knowing which settings exist."""
    layers = Layers()
    for file in files:
        _add_file(layers, find_file(str(file)), ())
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT):
            key = name.removeprefix(ENVIRONMENT).replace("__", ".")
            _assign(layers, key, parse_value(environ[name], name), name)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is not a setting", where="command line", hint="write key=value")
        _assign(layers, key.strip(), parse_value(text, f"command line, {key}"), "command line")
    return layers


def find_file(name: str, beside: Path | None = None) -> Path:
    """The TOML file a name means: a path (relative to `beside`), or a shipped preset such as "tiny"."""
    path = (beside or Path()) / name
    if path.suffix == ".toml" and path.is_file():
        return path
    shipped = PRESETS / f"{name}.toml"
    if re.fullmatch(r"[\w.-]+", name) and shipped.is_file():
        return shipped
    names = sorted(p.stem for p in PRESETS.glob("*.toml"))
    hint = f"the path of a .toml file, or a shipped one: {', '.join(names)}"
    raise InputError(f"no recipe {name!r}{_did_you_mean(name, names)}", hint=hint)


def parse_value(text: str, where: str) -> Any:
    """A value given as text: TOML where it parses, otherwise the text itself; a broken list or string is refused."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError as problem:
        if text.startswith(("[", "{", '"', "'")):
            raise ConfigError(f"not a TOML value: {problem}", where=where, found=text) from None
        return text


def check(kind: type[C], layers: Layers) -> C:
    """Build `kind` from merged values, or raise one ConfigError that lists every problem with its place."""
    try:
        return kind.model_validate(_over_defaults(kind, layers.values))
    except ValidationError as error:
        problems = _problems(kind, layers.sources, [dict(e) for e in error.errors(include_url=False)])
    if len(problems) == 1:
        raise ConfigError(problems[0])
    raise ConfigError(f"{len(problems)} problems\n" + "\n".join(f"  {p}" for p in problems))


def resolved(loaded: Loaded[Any]) -> dict[str, Resolved]:
    """Every setting by its dotted key, in the order of the fields, with the source of its value."""
    values = _leaves(loaded.config.model_dump(mode="json"))
    return {key: Resolved(value, source_of(loaded.sources, key)) for key, value in values}


def source_of(sources: Mapping[str, str], key: str) -> str:
    """Where a setting's value was set: its own record, or that of the list or table it was set with."""
    parts = key.split(".")
    for n in range(len(parts), 0, -1):
        if (source := sources.get(".".join(parts[:n]))) is not None:
            return source
    return "default"


def schema(kind: type[Config]) -> dict[str, Any]:
    """The JSON Schema of a recipe's settings, for editors; `recipe` and `extends` are allowed at the top."""
    described = kind.model_json_schema()
    header = {
        "recipe": {"type": "string", "description": "Which graph this file sets."},
        "extends": {"type": "string", "description": "The preset or file this one starts from."},
    }
    described["properties"] = header | described.get("properties", {})
    return described


def explain(loaded: Loaded[Any], key: str) -> list[Explained]:
    """What a setting means; for a table, each setting in it. Raises ConfigError for a key that does not exist."""
    kind = type(loaded.config)
    everything = resolved(loaded)
    below = [k for k in everything if k == key or k.startswith(key + ".")]
    if not below and field_at(kind, key) is None:
        known = [k for k, _ in _known_keys(kind)]
        raise ConfigError(f"no setting {key!r}{_did_you_mean(key, known)}", hint="`thinkery config show` lists them")
    return [_explain_one(kind, k, everything[k]) for k in below]


def diff(a: Loaded[Any], b: Loaded[Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, as key → (value in a, value in b); None where one side has no such key."""
    left, right = resolved(a), resolved(b)
    values = {key: (_value(left, key), _value(right, key)) for key in (*left, *(k for k in right if k not in left))}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def field_at(kind: type[Config], key: str) -> FieldInfo | None:
    """The field a dotted key names, through optional, listed and alternative settings; None if there is none."""
    found: FieldInfo | None = None
    kinds: list[type] = [kind]
    for part in key.split("."):
        below = next((_fields(k)[part] for k in kinds if part in _fields(k)), None)
        if below is None and found is not None and (part.isdigit() or get_origin(found.annotation) is dict):
            continue
        if below is None:
            return None
        found, kinds = below, _configs_in(below.annotation)
    return found


def type_name(annotation: Any) -> str:
    """A type as a reader of TOML would name it."""
    if get_origin(annotation) is Literal:
        return " | ".join(repr(a) for a in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(type_name(a) for a in get_args(annotation))
    if (origin := get_origin(annotation)) is not None:
        inner = ", ".join("…" if a is Ellipsis else type_name(a) for a in get_args(annotation))
        return f"{type_name(origin)}[{inner}]"
    return "none" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def _add_file(layers: Layers, path: Path, seen: tuple[Path, ...]) -> None:
    if path.resolve() in seen:
        raise ConfigError("`extends` goes in a circle", where=str(path))
    text = _read(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"not TOML: {problem}", where=str(path)) from None
    header = {key: values.pop(key) for key in HEADER if key in values}
    for key, value in header.items():
        if not isinstance(value, str):
            raise ConfigError(f"`{key}` must be a string", where=str(path), found=repr(value))
    if "extends" in header:
        _add_file(layers, find_file(header["extends"], path.parent), (*seen, path.resolve()))
    layers.header.update(header)
    lines = _lines(text)
    for key, value in _tables(values):
        _set(layers, key.split("."), value, lambda k: f"{_shown(path)}:{_line_of(lines, k)}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError("cannot be read", where=str(path), found=str(problem)) from None


def _assign(layers: Layers, key: str, value: Any, source: str) -> None:
    """Set one dotted key from the environment or the command line; a table merges key by key."""
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ConfigError(f"{key!r} is not a dotted key", where=source, hint="for example zero.grpo.updates=200")
    if key in HEADER:
        raise ConfigError(f"`{key}` is chosen by the file, not by a setting", where=source)
    if isinstance(value, dict) and value:
        for below, leaf in _tables(value):
            _set(layers, [*key.split("."), *below.split(".")], leaf, lambda _: source)
    else:
        _set(layers, key.split("."), value, lambda _: source)


def _set(layers: Layers, parts: list[str], value: Any, source: Any) -> None:
    """Put one value into the nested values; a number walks into a list that is already there, and an empty table leaves
    a table as it is."""
    at: Any = layers.values
    for part in parts[:-1]:
        if isinstance(at, list):
            at = at[_index(at, part, parts)]
            if not isinstance(at, dict | list):
                raise ConfigError(f"{'.'.join(parts)}: there is nothing below {part!r}", found=repr(at))
        else:
            if not isinstance(at.get(part), dict | list):
                at[part] = {}
            at = at[part]
    if value == {} and isinstance(at, dict) and isinstance(at.get(parts[-1]), dict):
        return
    if isinstance(at, list):
        at[_index(at, parts[-1], parts)] = value
    else:
        at[parts[-1]] = value
    key = ".".join(parts)
    for old in [k for k in layers.sources if k.startswith(key + ".")]:
        del layers.sources[old]
    layers.sources[key] = source(key)
    if isinstance(value, list):
        layers.sources.update((f"{key}.{below}", source(f"{key}.{below}")) for below, _ in _leaves_of_list(value))


def _index(at: list[Any], part: str, parts: list[str]) -> int:
    if part.isdigit() and int(part) < len(at):
        return int(part)
    raise ConfigError(f"{'.'.join(parts)}: the list has {len(at)} entries, numbered from 0", found=part)


def _tables(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested tables; lists are values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _tables(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of nested tables and of lists of tables."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for below, leaf in _leaves_of_list(value):
                yield f"{prefix}{key}.{below}", leaf
        else:
            yield prefix + key, value


def _leaves_of_list(values: list[Any]) -> Iterator[tuple[str, Any]]:
    return _leaves({str(i): v for i, v in enumerate(values) if isinstance(v, dict)})


def _lines(text: str) -> dict[str, int]:
    """Line number of every `[table]` and `key =` by dotted key; entries of `[[table]]` are numbered from 0."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[\[([^\]]+)\]\]", line):
            name = _dotted(match[1])
            counts[name] = counts.get(name, -1) + 1
            table = f"{name}.{counts[name]}."
            lines.setdefault(name, number)
            lines[table[:-1]] = number
        elif match := re.match(r"\s*\[([^\]=,]+)\]\s*(#.*)?$", line):
            table = _dotted(match[1]) + "."
            lines.setdefault(table[:-1], number)
        elif match := re.match(r"\s*([\w\-.\"' ]+?)\s*=", line):
            lines.setdefault(table + _dotted(match[1]), number)
    return lines


def _dotted(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _line_of(lines: Mapping[str, int], key: str) -> int:
    """The line of a key, or of the nearest table around it."""
    parts = key.split(".")
    return next((lines[k] for n in range(len(parts), 0, -1) if (k := ".".join(parts[:n])) in lines), 1)


def _shown(path: Path) -> str:
    """A shipped preset is named by its name, any other file by its path."""
    return f"preset {path.stem}" if path.parent == PRESETS else str(path)


def _problems(kind: type[Config], sources: Mapping[str, str], errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each wrong key: where, key, everything that was expected of it, what was found."""
    expected: dict[tuple[str, str], list[str]] = {}
    for error in errors:
        key = _settings_key(kind, error)
        found = "" if error["type"] in (*UNKNOWN, "missing") else f" (found {error['input']!r})"
        expected.setdefault((key, found), []).append(_expected(kind, key, error))
    return sorted(f"{_where(sources, key)}: {' or '.join(what)}{found}" for (key, found), what in expected.items())


def _where(sources: Mapping[str, str], key: str) -> str:
    """The place of a key and the key; of a table that lacks something, the place of its first setting."""
    source = source_of(sources, key)
    if source == "default":
        source = next((s for k, s in sources.items() if k.startswith(key + ".")), "")
    return f"{source}: {key}" if source else key


def _expected(kind: type[Config], key: str, error: Mapping[str, Any]) -> str:
    """What one pydantic problem asks for, with the nearest known key for one that does not exist."""
    if error["type"] == "missing":
        return "must be set"
    if error["type"] not in UNKNOWN:
        return re.sub(r"^(Input|Value error,) ", "", error["msg"])
    parent, _, name = key.rpartition(".")
    nearest = _did_you_mean(name, _siblings(kind, parent))
    return "no such setting" + (nearest or _did_you_mean(name, [k for k, _ in _known_keys(kind)], by_name=True))


def _settings_key(kind: type[Config], problem: Mapping[str, Any]) -> str:
    """pydantic's place as a dotted key; the names of alternatives inside a union are left out."""
    *inner, last = problem["loc"] or ("",)
    parts: list[str] = []
    for part in inner:
        if isinstance(part, int) or field_at(kind, ".".join([*parts, part])):
            parts.append(str(part))
    whole = ".".join([*parts, str(last)])
    is_key = isinstance(last, int) or problem["type"] in UNKNOWN or field_at(kind, whole) is not None
    return whole if is_key else ".".join(parts)


def _siblings(kind: type[Config], parent: str) -> list[str]:
    """The settings of one table."""
    if not parent:
        return list(kind.model_fields)
    around = field_at(kind, parent)
    return [name for k in _configs_in(around.annotation) for name in _fields(k)] if around else []


def _known_keys(kind: type, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key that can be set, entries of lists under the list's own name."""
    for name, info in _fields(kind).items():
        yield prefix + name, info
        for below in _configs_in(info.annotation):
            yield from _known_keys(below, f"{prefix}{name}.")


def _configs_in(annotation: Any) -> list[type]:
    """The classes with settings inside an annotation such as `tuple[Source, ...] | None`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Config) or is_dataclass(annotation) else []
    return [k for a in get_args(annotation) for k in _configs_in(a)]


def _fields(kind: type) -> Mapping[str, FieldInfo]:
    """The settings of a Config, or of a dataclass inside one such as `Sampling`."""
    if issubclass(kind, Config):
        return kind.model_fields
    hints = get_type_hints(kind)
    return {f.name: FieldInfo(annotation=hints[f.name], default=f.default) for f in fields(kind)}


def _over_defaults(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """Given values, with the tables among them laid over the defaults of the fields they set."""
    return {
        name: _over(info.get_default(call_default_factory=True), value, info)
        if (info := kind.model_fields.get(name)) and not info.is_required()
        else value
        for name, value in values.items()
    }


def _over(default: Any, given: Any, info: FieldInfo) -> Any:
    """A given table over a default of the same kind; a table that may be of several kinds stands for itself."""
    if not isinstance(given, dict) or len(_configs_in(info.annotation)) > 1:
        return given
    if isinstance(default, dict):
        return default | given
    if not (isinstance(default, Config) or is_dataclass(default)):
        return given
    known = _fields(type(default))
    below = {name: getattr(default, name) for name in known}
    return below | {name: _over(below.get(name), v, known[name]) if name in known else v for name, v in given.items()}


def _did_you_mean(name: str, known: Sequence[str], by_name: bool = False) -> str:
    """The nearest known key as a question in brackets, or nothing; `by_name` compares only the last part."""
    names = {k.rpartition(".")[2] if by_name else k: k for k in reversed(known)}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.8 if by_name else 0.6)
    return f" (did you mean {names[near[0]]!r}?)" if near else ""


def _explain_one(kind: type[Config], key: str, now: Resolved) -> Explained:
    info = field_at(kind, key)
    if info is None:
        parent = field_at(kind, key.rpartition(".")[0])
        return Explained(key, "", "", (parent.description if parent else "") or "", now.value, now.source)
    defaults = _defaults(kind)
    default = repr(defaults[key]) if key in defaults else "must be set"
    return Explained(key, type_name(info.annotation), default, info.description or "", now.value, now.source)


def _defaults(kind: type[Config]) -> dict[str, Any]:
    """The default of every setting that has one, by dotted key."""
    fields = {n: i.get_default(call_default_factory=True) for n, i in kind.model_fields.items() if not i.is_required()}
    return dict(_leaves(kind.model_construct(**fields).model_dump(mode="json")))


def _value(settings: Mapping[str, Resolved], key: str) -> Any:
    return settings[key].value if key in settings else None
