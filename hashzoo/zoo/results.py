"""What results.json says: how a model was trained, and every number it has, each with what it rests on."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from hashzoo.config import Hash, Schema
from hashzoo.errors import ConfigError
from hashzoo.metrics import CodeHealth


class TrainingFacts(Schema):
    """How the weights came about; the recipe beside it says the rest.

    Attributes:
        seconds: wall time of all epochs together, as measured on a machine that may have had other work too; a frozen
            backbone's features are not counted.
        commit: of hashzoo's repository, "unknown" outside a checkout, with "+changes" where it had uncommitted ones.
        init: where the weights started.
        kept_epoch: the epoch, counted from 1, whose weights were the best on training images kept aside; None: the last's.
        seen: training lists that the starting weights had seen, directly or through an earlier start: (data set, protocol)
            pairs other than this run's own.
        frozen: whether the backbone stayed as it started, so that its features may come from the cache.
        base_model: Hub id of the published weights that the backbone started from.
        data_license: of the training data; None if hashzoo does not know the data set.
    """

    protocol: str
    data_copy: str
    seed: int
    epochs: int
    device: str
    precision: str
    seconds: float
    images_per_s: float
    commit: str
    versions: dict[str, str]
    init: str
    seen: tuple[tuple[str, str], ...] = ()
    kept_epoch: int | None = None
    frozen: bool = False
    base_model: str | None = None
    data_license: str | None = None


def _rounded(health: CodeHealth) -> CodeHealth:
    facts: dict[str, Any] = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(health).items()
    }
    return CodeHealth(**facts)


Figure = Annotated[float, AfterValidator(lambda value: round(value, 6))]
Share = Annotated[Figure, Field(ge=0, le=1)]
# where no query returns anything, `hashzoo.metrics` has NaN, which JSON has not
MaybeFigure = Annotated[Figure | None, BeforeValidator(lambda value: None if value != value else value)]


class Figures(Schema):
    """What follows from a protocol's codes and labels alone, rounded to six decimals.

    Attributes:
        top_k: K of mAP@K; None is over the whole database.
        map: mAP@K, the exact mean over random orders of equal distances.
        map_deephash: the same by the field's usual script: one seeded shuffle, stable sort.
        precision_at: N -> P@N.
        precision_within_2: P@H<=2.
        pr_precision, pr_recall: the curve of hash lookup at radius 0..K; None where no query returns anything.
        health: of the database codes.
    """

    model: str
    bits: int
    protocol: str
    queries: int
    database: int
    top_k: int | None
    map: Share
    map_deephash: Share
    precision_at: dict[int, Figure]
    precision_within_2: Figure
    pr_precision: tuple[MaybeFigure, ...]
    pr_recall: tuple[MaybeFigure, ...]
    health: Annotated[CodeHealth, AfterValidator(_rounded)]


class ResultRow(Figures):
    """One evaluation under one protocol: its figures, and what they rest on.

    Attributes:
        dataset: the one measured on; None, in older files, is the model's own.
        list_sha256: hashes of the protocol's query, train and database lists.
        unseen: so many classes the protocol keeps out of training; queries and database are of them alone.
        ties: "expected" says which rule `map` follows.
        map_float_cosine: mAP@K of the backbone's features by cosine, float32: what hashing is measured against; None where
            it was not measured.
        seconds: wall time of encoding and measuring.
        images_per_s: encoding speed, decoding of files not counted; None where features came from the cache.
    """

    dataset: str | None = None
    list_sha256: dict[str, Hash]
    unseen: int = 0
    ties: Literal["expected"]
    map_float_cosine: Share | None = None
    seed: int
    data_copy: str
    weights_sha256: Hash
    device: str
    precision: str
    seconds: float
    images_per_s: float | None
    commit: str


class Repeat(Schema):
    """The same recipe with another seed: how it was trained, and what it scored under the protocol it was trained under."""

    training: TrainingFacts
    row: ResultRow


@dataclass(frozen=True)
class Spread:
    """A figure over seeds, by the one rule for mean and spread.

    Attributes:
        seeds: ascending.
        mean: of the seeds' figures.
        deviation: the sample's standard deviation (n - 1); None of one seed.

    >>> spread = Spread.of({1: 0.5, 0: 0.7})
    >>> f"{spread}, {spread:.2f}, {Spread.of({0: 0.5}):.2f}"
    '0.6000 ± 0.1414, 0.60 ± 0.14, 0.50'
    """

    seeds: tuple[int, ...]
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, figures: Mapping[int, float]) -> Spread:
        """Measure figures by seed; there is at least one."""
        values = list(figures.values())
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(tuple(sorted(figures)), statistics.fmean(values), deviation)

    def __format__(self, spec: str) -> str:
        spec = spec or ".4f"
        return format(self.mean, spec) + ("" if self.deviation is None else f" ± {self.deviation:{spec}}")

    def __str__(self) -> str:
        return format(self)


def repeats_of(training: TrainingFacts, row: ResultRow, repeats: Iterable[Repeat]) -> tuple[Repeat, ...]:
    """Those repeats that differ from a result in the seed alone; others are of an older recipe or another copy of the data.

    The recipe is told by the protocol, the epochs and whether the backbone was frozen, the data by its copy and lists.
    """

    def facts(training: TrainingFacts, row: ResultRow) -> tuple[object, ...]:
        trained = (training.protocol, training.data_copy, training.epochs, training.frozen)
        return (*trained, row.bits, row.protocol, row.list_sha256, row.top_k, row.data_copy)

    wanted = facts(training, row)
    return tuple(item for item in repeats if item.row.seed != row.seed and facts(item.training, item.row) == wanted)


def spread_of(training: TrainingFacts, row: ResultRow, repeats: Iterable[Repeat]) -> Spread | None:
    """Measure mAP over the seeds of a result and of `repeats_of` it; None where there is one seed."""
    rows = [row, *(repeat.row for repeat in repeats_of(training, row, repeats))]
    return Spread.of({row.seed: row.map for row in rows}) if len(rows) > 1 else None


class Found(Schema):
    """How much of what belongs together codes find, measured without classes.

    Attributes:
        what: "neighbours" are the pictures nearest by the network's float features; "copies" are changed copies of pictures.
        share: of them, how many were found, 0 to 1.
        depth: among so many nearest; None: all within `max_distance`.
        max_distance: in bits.
        data: what it was measured with, in words.
        list_sha256: of the lists of pictures.
    """

    what: Literal["neighbours", "copies"]
    share: Annotated[float, Field(ge=0, le=1)]
    depth: Annotated[int, Field(ge=1)] | None = None
    max_distance: Annotated[int, Field(ge=0)] | None = None
    bits: int
    queries: int
    database: int
    data: str
    list_sha256: dict[str, Hash] = Field(default_factory=dict)
    weights_sha256: Hash
    device: str
    precision: str
    seconds: float
    commit: str


class Advice(Schema):
    """A setting that suits a model.

    Attributes:
        value: the setting.
        measured_with: data, protocol and command that it comes from, in words.
    """

    value: Annotated[int, Field(ge=0)]
    measured_with: str


class Results(Schema):
    """results.json of a model.

    Attributes:
        format: version of this schema; `as_json` writes the lowest that says everything.
        training: None of a model that was fitted, or made without data.
        rows: of the weights in this folder; the first is of the protocol they were trained under.
        repeats: other seeds, by seed; their weights are not kept.
        found: of the weights in this folder.
        duplicate_distance: up to which distance in bits two pictures are shown as copies, unless asked otherwise.
        rescore: how many times k candidates are worth ordering again by relaxed codes.
    """

    format: Literal[1, 2] = 1
    training: TrainingFacts | None = None
    rows: tuple[ResultRow, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    found: tuple[Found, ...] = ()
    duplicate_distance: Advice | None = None
    rescore: Advice | None = None

    @property
    def trained(self) -> TrainingFacts:
        """How the weights came about.

        Raises:
            ConfigError: they were not trained under a protocol.
        """
        if self.training is None:
            raise ConfigError("The model was not trained under a protocol, so that what it has seen is not known.")
        return self.training

    def spread(self) -> Spread | None:
        """Mean and standard deviation over the seeds of the first row and the repeats, see `spread_of`."""
        return spread_of(self.trained, self.rows[0], self.repeats) if self.rows else None

    def as_json(self) -> str:
        """Write results.json in the lowest format that says everything, so that older releases read what they can."""
        new = {"found", "duplicate_distance", "rescore"}
        left_out = {name for name in {*new, "training"} if not getattr(self, name)}
        lowest = 1 if new <= left_out and self.training else 2
        return self.model_copy(update={"format": lowest}).model_dump_json(indent=1, exclude=left_out) + "\n"
