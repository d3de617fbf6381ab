"""manifest.json of an index: it names the files that make up one state of the index, and is written last and whole.

The format is described in docs/index-format.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hashzoo.codes import MAX_BITS, MIN_BITS, Codes
from hashzoo.errors import CodesError, short
from hashzoo.files import opened, replacing
from hashzoo.precision import Precision

FORMAT = 4
NAME = "manifest.json"
LARGEST = 1 << 26  # bytes of a manifest
MAX_PARTS = 1 << 17
_INT64 = 1 << 63

Size = Annotated[int, Field(ge=0, lt=_INT64)]
Id = Annotated[int, Field(ge=-_INT64, lt=_INT64)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=4096)]
PartName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.parquet$", max_length=128)]
ListName = Annotated[str, Field(pattern=r"^_lists/[A-Za-z0-9][A-Za-z0-9._-]*\.parquet$", max_length=128)]
RootName = Annotated[str, Field(pattern=r"^[^/\\=\x00-\x1f]+$", max_length=255)]


class _Entry(BaseModel):
    """Keys that this version does not know are passed over, and kept when the manifest is written again."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Maker(_Entry):
    """What made the codes of one column; the same for all parts.

    Attributes:
        model: its name, or None where it is not known.
        bits: K.
        preprocess: id of the preprocessing; "" where it is not known.
        weights: first 16 digits of the sha256 of the weights' file, or None where they are not known.
        precision: what the network ran in, or None where it is not known.
        engine: what ran the network, or None where it is not known.
        column: the column of the parts that holds the codes: "code", and "code_2" and so on for more models.
    """

    model: Text | None = None
    bits: Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS, strict=True)]
    preprocess: Text = ""
    weights: Text | None = None
    precision: Precision | None = None
    engine: Text | None = None
    column: Annotated[str, Field(pattern=r"^code(_[0-9]+)?$")] = "code"

    @classmethod
    def of(cls, codes: Codes, preprocess: str = "") -> Maker:
        """Say what made `codes`."""
        return cls(
            model=codes.model,
            bits=codes.bits,
            preprocess=preprocess,
            weights=codes.weights,
            precision=codes.precision,
        )

    @property
    def width(self) -> int:
        """Bytes of a code."""
        return -(-self.bits // 8)

    def fits(self, other: Maker) -> bool:
        """Say whether codes of both may be in one column; what is not known of one of them is no obstacle."""
        if (self.model, self.bits, self.preprocess) != (other.model, other.bits, other.preprocess):
            return False
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("weights", "precision", "engine")]
        return all(None in pair or pair[0] == pair[1] for pair in pairs)

    def joined(self, other: Maker) -> Maker:
        """Put together what both know."""
        known = {name: getattr(self, name) or getattr(other, name) for name in ("weights", "precision", "engine")}
        return self.model_copy(update=known)

    def __str__(self) -> str:
        weights = f" (weights {self.weights})" if self.weights else ""
        precision = f" in {self.precision}" if self.precision else ""
        preprocess = f" and preprocessing {self.preprocess}" if self.preprocess else ""
        return f"{self.bits}-bit codes of model {self.model!r}{weights}{precision}{preprocess}"


class Part(_Entry):
    """A Parquet part.

    Attributes:
        file: its name in the folder.
        rows: how many items it holds.
        low, high: lowest and highest id; 0 and -1 where it has no rows.
        size: bytes of the file.
        sha256: of the file; "" for parts of an older format, of which it is not known.
        footer_sha256: of Parquet's footer, which says where the columns are; each page has a checksum of its own.
        order: "id" where rows ascend by id; any other word says that they may not.
    """

    file: PartName
    rows: Size
    low: Id
    high: Id
    size: Size
    sha256: Hash | Literal[""]
    footer_sha256: Hash | Literal[""] = ""
    order: Text = "id"

    @property
    def is_range(self) -> bool:
        """Say whether the ids are all from low to high, in order, so that they need not be read."""
        return self.order == "id" and self.rows == self.high - self.low + 1


class Listed(_Entry):
    """A file of `_lists/`: Parquet that is no part."""

    file: ListName
    rows: Size
    size: Size
    sha256: Hash


class Manifest(_Entry):
    """One state of an index.

    Attributes:
        makers: of the columns of codes; the first is that of "code".
        roots: by name, the folder that a root was when it was last written to; a reader may say where it is now.
        next_id: the lowest id that a new item may be given; ids are not given twice.
        next_part: number of the next file.
        parts: by lowest id.
        lists: by what they list: "skipped" is written today; "sources" and "pairs" are reserved.
    """

    format: Literal[4] = 4
    makers: Annotated[tuple[Maker, ...], Field(min_length=1, max_length=16)]
    roots: dict[RootName, Text] = {}
    next_id: Annotated[int, Field(ge=0, le=_INT64)] = 0
    next_part: Size = 0
    parts: Annotated[tuple[Part, ...], Field(max_length=MAX_PARTS)] = ()
    lists: dict[str, Listed] = {}

    @property
    def maker(self) -> Maker:
        """What made the codes of the column "code"."""
        return self.makers[0]

    def with_parts(self, *added: Part, without: tuple[Part, ...] = ()) -> Manifest:
        """Return the next state, with parts added and others gone."""
        gone = {part.file for part in without}
        kept = [part for part in self.parts if part.file not in gone]
        parts = tuple(sorted([*kept, *added], key=lambda part: (part.low, part.file)))
        next_id = max([self.next_id, *(part.high + 1 for part in added)])
        return self.model_copy(update={"parts": parts, "next_id": next_id})


def read(folder: str | os.PathLike[str]) -> Manifest | None:
    """Read the manifest of the index in `folder`; None where there is none.

    Raises:
        CodesError: it cannot be read, was changed since it was written, or is of a newer format.
    """
    path = Path(folder, NAME)
    try:
        with opened(path) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        facts = json.loads(data)
        if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
            raise ValueError("it is no manifest of an index")
        if facts["format"] > FORMAT:
            raise CodesError(
                f"{path} is of index format {facts['format']}, but this hashzoo reads up to {FORMAT}; "
                "upgrade it with `pip install -U hashzoo`."
            )
        if facts.pop("checksum", None) != _checksum(facts):
            raise ValueError("its checksum is wrong")
        return Manifest.model_validate(facts)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except CodesError:
        raise
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {short(first['msg'])}"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0] if not isinstance(error, RecursionError) else "it is nested too deep"
    raise CodesError(f"{path} cannot be read ({reason}); restore it from a copy, or encode into a new folder.")


def write(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write the manifest whole or not at all: with it the index comes into its new state."""
    facts = manifest.model_dump(mode="json")
    text = json.dumps({**facts, "checksum": _checksum(facts)}, indent=1) + "\n"
    with replacing(Path(folder, NAME)) as partial:
        partial.write_text(text, encoding="utf-8")


def version(folder: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return what is different after a manifest was written; () where there is none."""
    try:
        stat = Path(folder, NAME).stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _checksum(facts: dict[str, Any]) -> str:
    """Hash what a manifest says, whatever its spaces and the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
