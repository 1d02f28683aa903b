"""Makes `pods.json.gz`: what Kubernetes knows of pods and services, as a JSON schema, for `test_jobs.py`.

    pip download --no-deps kubernetes==33.1.0
    python tests/launch/pods.py kubernetes-33.1.0-py2.py3-none-any.whl

The source is the package `kubernetes` of PyPI, Kubernetes' own client for Python (Apache License 2.0), whose models are
generated from the OpenAPI document of Kubernetes 1.33: names, types and what is required are theirs, descriptions are
left out. Where the client has text or any object for a quantity, the schema has Kubernetes' quantities. Unknown fields
are refused, as `kubectl apply --validate=strict` does. The same wheel gives the same bytes.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

MADE = Path(__file__).with_name("pods.json.gz")
ROOTS = ("V1PodTemplateSpec", "V1Service")
PLAIN = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string"},
    "object": {"type": ["integer", "string", "object"]},
}
QUANTITIES = {"limits", "requests", "overhead", "size_limit", "divisor"}
"""Attributes of the models that are quantities, or hold them by name; the client has text for them."""
QUANTITY = {
    "type": ["integer", "string"],
    "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$",
}


def schemas(wheel: Path) -> dict[str, Any]:
    """The schemas of the roots and of all that they hold, by the models' names."""
    found: dict[str, Any] = {}
    with zipfile.ZipFile(wheel) as archive:
        models = [archive.read(name).decode() for name in archive.namelist() if "/client/models/v1_" in name]
        texts = {name[1]: text for text in models if (name := re.search(r"^class (\w+)\(object\):", text, re.M))}
        waiting = list(ROOTS)
        while waiting:
            if (name := waiting.pop()) not in found:
                found[name] = schema(texts[name])
                waiting += re.findall(r"#/\$defs/(\w+)", json.dumps(found[name]))
    return dict(sorted(found.items()))


def schema(text: str) -> dict[str, Any]:
    """The schema of one model, from its source."""
    types, names = (literal(text, name) for name in ("openapi_types", "attribute_map"))
    required = set(re.findall(r"Invalid value for `(\w+)`, must not be `None`", text))
    return {
        "type": "object",
        "properties": {
            names[key]: QUANTITY if is_one(key, kind) else of_type(kind, key) for key, kind in types.items()
        },
        "required": sorted(names[key] for key in required),
        "additionalProperties": False,
    }


def literal(text: str, name: str) -> dict[str, str]:
    """A dictionary that a model's source has under a name."""
    found = re.search(rf"^    {name} = (\{{.*?^    \}})", text, re.M | re.S)
    assert found
    return ast.literal_eval(found[1])


def is_one(key: str, kind: str) -> bool:
    """Whether an attribute is a quantity itself."""
    return key in QUANTITIES and kind == "str"


def of_type(kind: str, key: str = "") -> dict[str, Any]:
    """The schema of a type as the client writes it, such as `dict(str, list[V1Container])`."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return {"type": "array", "items": of_type(inner[1])}
    if inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {"type": "object", "additionalProperties": QUANTITY if key in QUANTITIES else of_type(inner[1])}
    return PLAIN.get(kind) or {"$ref": f"#/$defs/{kind}"}


if __name__ == "__main__":
    made = json.dumps(schemas(Path(sys.argv[1])), separators=(",", ":"))
    MADE.write_bytes(gzip.compress(made.encode(), mtime=0))
