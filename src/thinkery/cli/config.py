"""`thinkery config`: what can be set, what is set, and by whom."""

from __future__ import annotations

import argparse

from thinkery.cli import recipe, terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-verb each, on one recipe, or on two for `diff`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, (action, summary) in ACTIONS.items():
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.set_defaults(action=action)
        sub.add_argument("--json", action="store_true", help="machine output on stdout")
        if name == "explain":
            sub.add_argument("key", metavar="KEY", help="a dotted key, such as zero.grpo.clip_low")
        if name == "diff":
            sub.add_argument("a", metavar="A", help="a recipe")
            sub.add_argument("b", metavar="B", help="another recipe")
        elif name in ("explain", "schema"):
            sub.add_argument("recipe", nargs="?", default="tiny", metavar="RECIPE", help="a recipe (default tiny)")
            sub.add_argument("settings", nargs="*", metavar="KEY=VALUE")
            sub.add_argument("-c", "--config", action="append", default=[], metavar="FILE")
        else:
            recipe.arguments(sub)


def main(args: argparse.Namespace) -> None:
    """Do the chosen action."""
    args.action(args)


def show(args: argparse.Namespace) -> None:
    """Print every setting with its value and source."""
    record = recipe.read_recipe(args).record()
    if args.json:
        terminal.emit(record)
    else:
        print(terminal.table((f"{key} = {r['value']!r}", f"# {r['source']}") for key, r in record.items()))


def validate(args: argparse.Namespace) -> None:
    """Check every setting and the wiring of the graph."""
    graph = recipe.read_recipe(args).graph()
    if args.json:
        terminal.emit({"valid": True, "steps": list(graph)})
    else:
        print(f"{args.recipe} is valid: {len(graph)} steps ({', '.join(graph)})")


def schema(args: argparse.Namespace) -> None:
    """Print the JSON Schema of the recipe's settings, for editors."""
    from thinkery.config import schema as schema_of

    terminal.emit(schema_of(type(recipe.read_recipe(args).loaded.config)))


def explain(args: argparse.Namespace) -> None:
    """Print what a setting, or every setting of a table, means."""
    from thinkery.config import explain as explain_key

    found = explain_key(recipe.read_recipe(args).loaded, args.key)
    if args.json:
        terminal.emit([{name: getattr(one, name) for name in one.__slots__} for one in found])
        return
    for one in found:
        print(f"{terminal.styled(one.key, terminal.BOLD)}  {one.type}, default {one.default}")
        print(f"    {' '.join(one.doc.split()) or '(not documented)'}")
        print(f"    now {one.value!r}  # {one.source}")


def diff(args: argparse.Namespace) -> None:
    """Print the settings in which two recipes differ."""
    from thinkery.config import diff as differences

    pairs = differences(recipe.open_recipe([args.a]).loaded, recipe.open_recipe([args.b]).loaded)
    if args.json:
        terminal.emit({key: {"a": a, "b": b} for key, (a, b) in pairs.items()})
    elif pairs:
        print(terminal.table(((key, repr(a), repr(b)) for key, (a, b) in pairs.items()), ("", args.a, args.b)))
    else:
        print("no setting differs")


ACTIONS = {
    "show": (show, "every setting with its value and where it came from"),
    "validate": (validate, "check settings and wiring, listing all problems"),
    "schema": (schema, "the JSON Schema of the settings, for editors"),
    "explain": (explain, "what a setting means, its type, default and value"),
    "diff": (diff, "the settings in which two recipes differ"),
}
