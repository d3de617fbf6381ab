"""codes.parquet: the query and database codes behind a card's number, with labels, without images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from hashzoo.codes import MAX_BITS, MIN_BITS, Codes
from hashzoo.config import Classes, Schema, validate
from hashzoo.errors import CodesError
from hashzoo.files import opened, replacing
from hashzoo.precision import Precision

FILE = "codes.parquet"
MAX_BYTES = 1 << 28  # of all codes, labels and positions in memory
MAX_TEXT, MAX_CONTAINER = 1 << 22, 1 << 16  # bytes of a text, and items of a list, in the file's metadata


@dataclass(frozen=True)
class PublishedCodes:
    """Codes of a protocol's query and database lists.

    Attributes:
        positions: split ("query", "database") -> int64 (N,), positions in the data set's pool.
        labels: split -> int64 (N,) or bool (N, C).
        codes: split -> Codes.
        classes: C names.
    """

    protocol: str
    codes: dict[str, Codes]
    labels: dict[str, NDArray[Any]]
    positions: dict[str, NDArray[np.int64]]
    classes: tuple[str, ...]


class Facts(Schema):
    """What the file's schema metadata says, as JSON under the key `hashzoo`; older files say neither weights nor precision."""

    format: Literal[1] = 1
    model: str
    bits: Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]
    weights: str | None = None
    precision: Precision | None = None
    protocol: str
    classes: Classes


def write_codes(path: str | Path, published: PublishedCodes) -> None:
    """Write columns split, position, label and code; protocol, classes and what made the codes go into the metadata."""
    codes = Codes.concatenate([published.codes[split] for split in ("query", "database")])
    splits = ["query"] * len(published.codes["query"]) + ["database"] * len(published.codes["database"])
    labels = np.concatenate([published.labels[split] for split in ("query", "database")])
    facts = {
        "format": 1,
        "model": codes.model,
        "bits": codes.bits,
        "weights": codes.weights,
        "precision": codes.precision,
        "protocol": published.protocol,
        "classes": list(published.classes),
    }
    many = labels.ndim == 2
    label_type = pa.list_(pa.int16()) if many else pa.int16()
    table = pa.table(
        {
            "split": pa.array(splits).dictionary_encode(),
            "position": pa.array(np.concatenate([published.positions[split] for split in ("query", "database")])),
            "label": pa.array([np.flatnonzero(row) for row in labels] if many else labels, label_type),
            "code": pa.array([row.tobytes() for row in codes.packed], pa.binary(codes.packed.shape[1])),
        }
    ).replace_schema_metadata({"hashzoo": json.dumps(facts)})
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", use_dictionary=["split", "code"])


def read_codes(path: str | Path) -> PublishedCodes:
    """Read a codes.parquet.

    Raises:
        CodesError: the file is missing, damaged, or was not written by hashzoo.
    """
    try:
        with opened(path) as file:
            table, facts = _read_table(file)
        maker = facts.bits, facts.model, facts.weights, facts.precision
        width = -(-facts.bits // 8)
        code = table["code"].combine_chunks()
        packed = np.frombuffer(code.buffers()[1], np.uint8, len(code) * width, code.offset * width).reshape(-1, width)
        positions = table["position"].to_numpy()
        split = table["split"].combine_chunks()
        named = np.array(split.dictionary.to_pylist(), dtype=object)[split.indices.to_numpy()]
        masks = {name: named == name for name in ("query", "database")}
        labels = _labels(table["label"].combine_chunks(), len(facts.classes))
        return PublishedCodes(
            protocol=facts.protocol,
            codes={split: Codes(packed[mask], *maker) for split, mask in masks.items()},
            labels={split: labels[mask] for split, mask in masks.items()},
            positions={split: positions[mask] for split, mask in masks.items()},
            classes=facts.classes,
        )
    except FileNotFoundError as error:
        raise CodesError(f"{path} is missing; `hashzoo eval MODEL --update` writes it.") from error
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CodesError(f"{path} cannot be read as published codes ({error}).") from error


def _read_table(file: BinaryIO) -> tuple[pa.Table, Facts]:
    """Read the columns and the facts of the metadata, if they are as `write_codes` makes them and take a bounded memory."""
    parquet = pq.ParquetFile(file, thrift_string_size_limit=MAX_TEXT, thrift_container_size_limit=MAX_CONTAINER)
    rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    facts = validate(Facts, json.loads(schema.metadata[b"hashzoo"]), "its metadata")
    label = schema.field("label").type
    wanted = {
        "split": pa.dictionary(pa.int32(), pa.string()),
        "position": pa.int64(),
        "label": pa.list_(pa.int16()) if pa.types.is_list(label) else pa.int16(),
        "code": pa.binary(-(-facts.bits // 8)),
    }
    for name, kind in wanted.items():
        if schema.field(name).type != kind:
            raise ValueError(f"column {name} is {schema.field(name).type}, not {kind}")
    groups = [parquet.metadata.row_group(place) for place in range(parquet.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    # how a column is packed says nothing of its size: a run of one value takes some bytes, however long it is
    each = wanted["code"].byte_width + 32 + (len(facts.classes) if pa.types.is_list(label) else 0)
    values = max((column.num_values for column in columns), default=0)
    unpacked = sum(column.total_uncompressed_size for column in columns)
    if max(rows * each, values * each, unpacked) > MAX_BYTES or len(columns) > MAX_CONTAINER:
        raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
    table = parquet.read(list(wanted))
    if any(column.null_count for column in table.columns):
        raise ValueError("a value is missing")
    return table, facts


def _labels(column: pa.Array, classes: int) -> NDArray[Any]:
    """Labels as `PublishedCodes` has them."""
    many = pa.types.is_list(column.type)
    values = (column.flatten() if many else column).to_numpy().astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(f"a label is none of the {classes} classes")
    if not many:
        return values
    labels = np.zeros((len(column), classes), dtype=bool)
    labels[np.repeat(np.arange(len(column)), column.value_lengths().to_numpy()), values] = True
    return labels
