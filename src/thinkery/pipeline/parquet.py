"""Rows as Parquet shards, for datasets that other programs are to read: `pip install 'thinkery[parquet]'`.

A column for each field. Objects and lists are columns of their own kind where all rows agree on it, so that
`datasets.load_dataset` and pandas see them as such; anything else is JSON as text, which the schema notes. One schema
holds for all shards. What is read is what was written, but for empty fields (null) of an object or of some rows alone,
which are left out.

Parquet cannot be appended to: a dataset in the making is a journal, and its shards are written at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from thinkery.errors import EnvironmentLacks, InputError

try:
    import pyarrow as pa
    from pyarrow import parquet as pq
except ModuleNotFoundError as error:
    raise EnvironmentLacks("Parquet needs the package pyarrow", hint="pip install 'thinkery[parquet]'") from error

Row = Mapping[str, Any]
NOTE = b"thinkery"
"""The key in a schema's metadata under which it says which columns are JSON, and which fields every row has."""
CHUNK = 1_000
"""Rows that are held at a time as Python objects."""
WIDEST = 64
"""Fields of an object above which it is JSON: its keys are then data."""


def schema_of(rows: Iterable[Row]) -> pa.Schema:
    """The columns of all rows, which are read once; fields in the order in which they first come."""
    types: dict[str, pa.DataType | None] = {}
    have: dict[str, int] = {}
    left, count = iter(rows), 0
    while chunk := list(islice(left, CHUNK)):
        count += len(chunk)
        for row in chunk:
            for name in row:
                have[name] = have.get(name, 0) + 1
        for name in have:
            own = type_of([row[name] for row in chunk if name in row])
            types[name] = joined(types.get(name, pa.null()), own)
    plain = {name: kind for name, kind in types.items() if kind is not None and storable(kind)}
    note = {"json": [n for n in types if n not in plain], "always": [n for n in types if have[n] == count]}
    fields = [(name, spoken(plain[name]) if name in plain else pa.string()) for name in types]
    return pa.schema(fields, metadata={NOTE: json.dumps(note).encode()})


def type_of(values: Sequence[Any]) -> pa.DataType | None:
    """The type of some values of one field; None where they have no common one."""
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return None


def joined(a: pa.DataType | None, b: pa.DataType | None) -> pa.DataType | None:
    """The type that holds the values of both; None where that would change any."""
    if a is None or b is None:
        return None
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if pa.types.is_list(a) and pa.types.is_list(b):
        inner = joined(a.value_type, b.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        names = dict.fromkeys([*(field.name for field in a), *(field.name for field in b)])
        found = {name: joined(field_type(a, name), field_type(b, name)) for name in names}
        return None if None in found.values() else pa.struct(list(found.items()))
    return None


def field_type(struct: pa.DataType, name: str) -> pa.DataType:
    """The type of an object's field, null where it has none of that name."""
    place = struct.get_field_index(name)
    return struct.field(place).type if place >= 0 else pa.null()


def storable(kind: pa.DataType) -> bool:
    """Whether Parquet can hold it as it is: no objects without fields, and none whose keys are data."""
    if pa.types.is_list(kind):
        return storable(kind.value_type)
    if pa.types.is_struct(kind):
        return 0 < kind.num_fields <= WIDEST and all(storable(field.type) for field in kind)
    return True


def spoken(kind: pa.DataType) -> pa.DataType:
    """The type with text where no value ever stood, since many readers know no column of nothing."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(spoken(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, spoken(field.type)) for field in kind])
    return kind


def shard(rows: Iterable[Row], schema: pa.Schema) -> bytes:
    """Rows as one Parquet file, whose bytes depend on nothing but them, the schema and the version of pyarrow."""
    texts = note_of(schema)["json"]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        left = iter(rows)
        while chunk := list(islice(left, CHUNK)):
            plain = [
                {name: json.dumps(v, ensure_ascii=False) if name in texts else v for name, v in row.items()}
                for row in chunk
            ]
            writer.write_table(pa.Table.from_pylist(plain, schema))
    return sink.getvalue().to_pybytes()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, read by and by; also of one that another program wrote."""
    try:
        with pq.ParquetFile(path) as file:
            note = note_of(file.schema_arrow)
            for batch in file.iter_batches(batch_size=CHUNK):
                yield from (restored(row, note) for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise InputError("not a Parquet file that can be read", where=str(path), found=str(error)) from error


def note_of(schema: pa.Schema) -> dict[str, list[str]]:
    """What `schema_of` noted; nothing in a file that another program wrote."""
    found = (schema.metadata or {}).get(NOTE)
    return json.loads(found) if found else {"json": [], "always": []}


def restored(row: dict[str, Any], note: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row as it was written."""
    return {
        name: json.loads(value) if name in note["json"] and value is not None else without_empty(value)
        for name, value in row.items()
        if value is not None or name in note["always"]
    }


def without_empty(value: Any) -> Any:
    """A value whose objects, at any depth, have no empty fields."""
    if isinstance(value, list):
        return [without_empty(each) for each in value]
    if isinstance(value, dict):
        return {name: without_empty(each) for name, each in value.items() if each is not None}
    return value
