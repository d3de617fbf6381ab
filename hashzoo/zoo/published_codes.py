"""codes.parquet: the query and database codes behind a card's number, with labels, without images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hashzoo.codes import Codes
from hashzoo.errors import CodesError
from hashzoo.files import replacing

FILE = "codes.parquet"


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
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[b"hashzoo"])
        classes = tuple(facts["classes"])
        maker = facts["bits"], facts["model"], facts.get("weights"), facts.get("precision")  # older files say neither
        splits = np.asarray(table["split"].to_pylist())
        positions = table["position"].to_numpy()
        packed = np.frombuffer(b"".join(table["code"].to_pylist()), dtype=np.uint8).reshape(len(splits), -1)
        if pa.types.is_list(table.schema.field("label").type):
            labels = np.zeros((len(splits), len(classes)), dtype=bool)
            for row, present in enumerate(table["label"].to_pylist()):
                labels[row, present] = True
        else:
            labels = table["label"].to_numpy().astype(np.int64)
        masks = {split: splits == split for split in ("query", "database")}
        return PublishedCodes(
            protocol=facts["protocol"],
            codes={split: Codes(packed[mask], *maker) for split, mask in masks.items()},
            labels={split: labels[mask] for split, mask in masks.items()},
            positions={split: positions[mask] for split, mask in masks.items()},
            classes=classes,
        )
    except FileNotFoundError as error:
        raise CodesError(f"{path} is missing; `hashzoo eval MODEL --update` writes it.") from error
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CodesError(f"{path} cannot be read as published codes ({error}).") from error
