"""Formats 1 to 3, which hashzoo 0.1.0 and before wrote: parts without a manifest, each of which says who made it.

Format 1 had the columns id, path (string) and code, format 2 the key `weights`, format 3 the columns size and mtime_ns and
later the key `precision`. Rows are in any order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from hashzoo.errors import CodesError
from hashzoo.index import parts
from hashzoo.index.manifest import FORMAT, NAME, Maker, Manifest, Part


def read(folder: Path) -> Manifest | None:
    """Say of a folder without a manifest what its manifest would say; None where it holds no part.

    Parts of the present format are passed over: an upgrade that has not ended may have left some.

    Raises:
        CodesError: a part cannot be read or is no part, they do not belong together, or all are of the present format, so
            that the manifest was lost.
    """
    found = [(path, *_about(path)) for path in sorted(folder.glob("*.parquet"), key=lambda path: path.name)]
    old = [(path, maker, part) for path, version, maker, part in found if version < FORMAT]
    if not old:
        if found:
            raise CodesError(f"{folder} has lost its {NAME}; restore it from a copy, or encode into a new folder.")
        return None
    maker = old[0][1]
    for path, other, _ in old[1:]:
        if not other.fits(maker):
            first, theirs = next((path, theirs) for path, theirs, _ in old if not other.fits(theirs))
            raise CodesError(
                f"{path} holds {other}, but {first.name} holds {theirs}; keep each in a folder of its own."
            )
        maker = maker.joined(other)
    return Manifest(makers=(maker,)).with_parts(*(part for *_, part in old))


def _about(path: Path) -> tuple[int, Maker, Part]:
    """Read which format a part is of, who made it, and what a manifest says of it."""
    import pyarrow.parquet as pq

    with parts.reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        number, maker = _maker(path, file.schema_arrow)
        rows, size = file.metadata.num_rows, path.stat().st_size
        ids = parts.ids_of(file.read(["id"])) if number < FORMAT else np.empty(0, np.int64)
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
    order = "id" if parts.ascending(ids) else "any"
    part = Part.model_construct(file=path.name, rows=rows, low=low, high=high, size=size, sha256="", order=order)
    return number, maker, part


def _maker(path: Path, schema: Any) -> tuple[int, Maker]:
    """Read a part's metadata and hold its columns against it."""
    try:
        facts = json.loads((schema.metadata or {})[b"hashzoo"])
        number = facts["format"]
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError("no format")
        if number > FORMAT:
            raise CodesError(
                f"{path} is of index format {number}, but this hashzoo reads up to {FORMAT}; "
                "upgrade it with `pip install -U hashzoo`."
            )
        names = ("model", "bits", "preprocess", "weights", "precision")
        maker = Maker.model_validate({name: facts[name] for name in names if name in facts})
        types = {field.name: str(field.type) for field in schema}
        if (types["id"], types["code"]) != ("int64", f"fixed_size_binary[{maker.width}]"):
            raise ValueError("other columns")
        return number, maker
    except CodesError:
        raise
    except (ValueError, KeyError, TypeError, pydantic.ValidationError):
        raise CodesError(f"{path} was not written as a part of an index; move it out of the folder.") from None
