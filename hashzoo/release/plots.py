"""Plots of result rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hashzoo.errors import require_extra
from hashzoo.files import replacing
from hashzoo.zoo.results import ResultRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_panels(rows: Sequence[ResultRow], height: float) -> tuple[Figure, Axes, Axes]:
    """Draw precision over recall, one point a Hamming radius, and beside it P@N; one line a row.

    Args:
        rows: results that compare.
        height: of the whole figure, in inches; it is 9 wide.

    Returns:
        The figure, its left and its right panel.
    """
    require_extra("train", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row in rows:
        points = curve(row)
        recalls, precisions = [recall for _, recall, _ in points], [precision for _, _, precision in points]
        left.plot(recalls, precisions, marker=".", linewidth=1, label=row.model)
        right.plot(list(row.precision_at), list(row.precision_at.values()), marker="o", linewidth=1)
    left.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    left.set_title("hash lookup, a point a Hamming radius", fontsize=9)
    right.set(xscale="log", ylim=(0, 1.02), xlabel="N", ylabel="P@N")
    right.set_title("precision in the first N", fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure, left, right


def curve(row: ResultRow) -> list[tuple[int, float, float]]:
    """Give the (radius, recall, precision) of each radius at which some query returns something."""
    pairs = enumerate(zip(row.pr_recall, row.pr_precision, strict=True))
    return [(radius, recall, precision) for radius, (recall, precision) in pairs
            if recall is not None and precision is not None]  # fmt: skip


def plot_curves(path: str | Path, row: ResultRow) -> None:
    """Write a model's plot, a PNG, with some radii beside their points."""
    figure, left, _ = draw_panels([row], 3.6)
    for radius, recall, precision in curve(row)[:: max(1, row.bits // 6)]:
        left.annotate(str(radius), (recall, precision), textcoords="offset points", xytext=(3, 4), fontsize=7)
    top = f"@{row.top_k}" if row.top_k else ""
    figure.suptitle(f"{row.model}, {row.protocol}: mAP{top} {row.map:.4f} (expected over ties)", fontsize=10)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})
