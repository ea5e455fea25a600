"""Fronts and hypervolume of two objectives, both minimised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates, first objective rising; equals once."""
    order = sorted(range(len(points)), key=lambda i: (*points[i], i))
    best, kept = np.inf, []
    for i in order:
        if points[i][1] < best:
            best = points[i][1]
            kept.append(i)
    return kept


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area that ``points`` dominate below ``reference``."""
    area, height = 0.0, reference[1]
    for i in front(points):
        x, y = points[i]
        if x < reference[0] and y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area
