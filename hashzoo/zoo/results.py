"""What results.json says: how a model was trained, and every number it has, each with what it rests on."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from hashzoo.config import Hash, Schema


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


class Health(Schema):
    """Code health of the database codes; `hashzoo.metrics.CodeHealth` says what each figure is."""

    mean_bias: float
    worst_bias: float
    dead_bits: int
    mean_correlation: float
    distinct_codes: int
    collision_rate: float
    entropy_bits: float
    effective_bits: float


class ResultRow(Schema):
    """One evaluation under one protocol.

    Attributes:
        dataset: the one measured on; None, in older files, is the model's own.
        list_sha256: hashes of the protocol's query, train and database lists.
        unseen: so many classes the protocol keeps out of training; queries and database are of them alone.
        top_k: K of mAP@K; None is over the whole database.
        ties: "expected" is the exact mean over random orders of equal distances.
        map: mAP@K under that tie rule, 0 to 1.
        map_deephash: the same by the field's usual script: one seeded shuffle, stable sort.
        map_float_cosine: mAP@K of the backbone's features by cosine, float32: what hashing is measured against; None where
            it was not measured.
        precision_at: N -> P@N.
        precision_within_2: P@H<=2.
        pr_precision, pr_recall: the curve of hash lookup at radius 0..K; None where no query returns anything.
        images_per_s: encoding speed, decoding of files not counted; None where features came from the cache.
    """

    model: str
    bits: int
    dataset: str | None = None
    protocol: str
    list_sha256: dict[str, Hash]
    unseen: int = 0
    queries: int
    database: int
    top_k: int | None
    ties: Literal["expected"]
    map: Annotated[float, Field(ge=0, le=1)]
    map_deephash: Annotated[float, Field(ge=0, le=1)]
    map_float_cosine: Annotated[float, Field(ge=0, le=1)] | None = None
    precision_at: dict[int, float]
    precision_within_2: float
    pr_precision: tuple[float | None, ...]
    pr_recall: tuple[float | None, ...]
    health: Health
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


class Spread(Schema):
    """mAP over seeds.

    Attributes:
        seeds: ascending, at least two.
        mean: of their mAP.
        deviation: the sample's standard deviation (n - 1).
    """

    seeds: tuple[int, ...]
    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.deviation:.4f}"


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
    if len(rows) < 2:
        return None
    maps = [row.map for row in rows]
    return Spread(
        seeds=tuple(sorted(row.seed for row in rows)), mean=statistics.fmean(maps), deviation=statistics.stdev(maps)
    )


class Results(Schema):
    """results.json of a model.

    Attributes:
        rows: of the weights in this folder; the first is of the protocol they were trained under.
        repeats: other seeds, by seed; their weights are not kept.
    """

    format: Literal[1] = 1
    training: TrainingFacts
    rows: tuple[ResultRow, ...] = ()
    repeats: tuple[Repeat, ...] = ()

    def spread(self) -> Spread | None:
        """Mean and standard deviation over the seeds of the first row and the repeats, see `spread_of`."""
        return spread_of(self.training, self.rows[0], self.repeats) if self.rows else None
