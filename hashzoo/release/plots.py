"""Plots of a result row."""

from __future__ import annotations

from pathlib import Path

from hashzoo.files import replacing
from hashzoo.zoo.results import ResultRow


def plot_curves(path: str | Path, row: ResultRow) -> None:
    """Draw precision over recall, one point a Hamming radius, and P@N; a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = [(r, p, radius) for radius, (p, r) in enumerate(zip(row.pr_precision, row.pr_recall, strict=True))
              if p is not None and r is not None]  # fmt: skip
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot([point[0] for point in points], [point[1] for point in points], marker=".", linewidth=1)
    for recall, precision, radius in points[:: max(1, row.bits // 6)]:
        left.annotate(str(radius), (recall, precision), textcoords="offset points", xytext=(3, 4), fontsize=7)
    left.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    left.set_title("hash lookup, by Hamming radius", fontsize=9)
    right.plot(list(row.precision_at), list(row.precision_at.values()), marker="o", linewidth=1)
    right.set(xscale="log", ylim=(0, 1.02), xlabel="N", ylabel="P@N")
    right.set_title("precision in the first N", fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    top = f"@{row.top_k}" if row.top_k else ""
    figure.suptitle(f"{row.model}, {row.protocol}: mAP{top} {row.map:.4f} (expected over ties)", fontsize=10)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
