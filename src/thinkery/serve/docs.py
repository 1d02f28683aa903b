"""The OpenAPI document as a page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = "body{font:16px/1.5 sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}td{padding:.1rem 1rem .1rem 0}"


def describe(document: Mapping[str, Any]) -> str:
    """Every endpoint with what it does and the fields of its body."""
    parts = [
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(one.get('description', ''))}</p>{fields(one)}"
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Thinkery</title><style>{STYLE}</style>"
    about = "<h1>Thinkery</h1><p>The whole document is at <a href=/openapi.json>/openapi.json</a>.</p>"
    return head + about + "".join(parts)


def fields(operation: Mapping[str, Any]) -> str:
    """A table of the body's fields, where there is a body."""
    if "requestBody" not in operation:
        return ""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{'required' if name in schema['required'] else 'optional'}"
        for name in schema["properties"]
    ]
    return f"<table>{''.join(rows)}</table>"
