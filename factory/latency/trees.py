"""Regression trees as plain arrays: saved as JSON, evaluated with numpy alone.

Fitted by scikit-learn (extremely randomised trees, Geurts et al. 2006; gradient boosting, Friedman
2001), then copied out of it, so
that loading a predictor and predicting needs neither scikit-learn nor a pickle. scikit-learn
compares float32 features with float64 thresholds; so does the evaluation here, so that both give
the same leaf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from factory.latency.packed import pack, single, unpack

LEAF = -1
ENOUGH_ROWS = 150  # of fewer half as many trees are boosted


@dataclass(frozen=True)
class TreeEnsemble:
    """The mean of several trees; node arrays of all trees one after the other.

    ``feature[i] == -1`` marks a leaf; ``left`` and ``right`` are absolute node numbers; ``roots``
    holds the first node of each tree.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Mean leaf value per row; O(rows x trees x depth), vectorised over rows and trees."""
        rows = features.astype(np.float32)
        node = np.tile(self.roots, (len(rows), 1))
        row_index = np.arange(len(rows))[:, None]
        while True:
            feature = self.feature[node]
            inner = feature != LEAF
            if not inner.any():
                return np.asarray(self.value[node].mean(axis=1))
            goes_left = rows[row_index, np.where(inner, feature, 0)] <= self.threshold[node]
            step = np.where(goes_left, self.left[node], self.right[node])
            node = np.where(inner, step, node)

    def to_dict(self) -> dict[str, Any]:
        """Packed arrays."""
        return {name: pack(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> TreeEnsemble:
        """The inverse of :meth:`to_dict`; ValueError where the arrays are no trees."""
        trees = cls(**{name: unpack(value[name]) for name in cls.__dataclass_fields__})
        nodes = np.arange(len(trees.feature)) if trees.feature.ndim == 1 else np.zeros(0)
        arrays = (trees.feature, trees.threshold, trees.left, trees.right, trees.value)
        if any(array.shape != nodes.shape for array in arrays) or trees.roots.ndim != 1:
            raise ValueError("the arrays of the trees do not fit together")
        inner = trees.feature != LEAF
        children = np.concatenate([trees.left[inner], trees.right[inner]])
        # A child after its parent: whoever walks down arrives.
        walks = (children > np.tile(nodes[inner], 2)).all() and (children < len(nodes)).all()
        rooted = len(trees.roots) and (trees.roots >= 0).all() and (trees.roots < len(nodes)).all()
        if not (walks and rooted and (trees.feature >= LEAF).all()):
            raise ValueError("the nodes of the trees are no trees")
        return trees

    @property
    def width(self) -> int:
        """The least number of columns that the features must have."""
        return int(self.feature.max(initial=LEAF)) + 1


def fit_trees(
    features: np.ndarray,
    target: np.ndarray,
    *,
    seed: int,
    n_trees: int = 48,
    weights: np.ndarray | None = None,
) -> TreeEnsemble:
    """Extremely randomised trees, copied into arrays; deterministic for a seed."""
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(
        n_estimators=n_trees,
        min_samples_leaf=2,
        max_depth=9,
        max_features=0.6,
        random_state=seed,
        n_jobs=1,
    )
    with _unchecked():
        forest.fit(features, target, sample_weight=weights)
    return _copied([estimator.tree_ for estimator in forest.estimators_], 1.0)


def fit_boosted(
    features: np.ndarray,
    target: np.ndarray,
    *,
    seed: int,
    weights: np.ndarray | None = None,
    n_trees: int = 500,
) -> TreeEnsemble:
    """Stochastic gradient boosting of targets with mean 0, as the mean of scaled trees.

    Many deep trees on few columns each, their numbers in single precision: a file stays small.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    rate = 0.05
    n_trees = n_trees if len(target) >= ENOUGH_ROWS else n_trees // 2
    boosted = GradientBoostingRegressor(
        init="zero",
        n_estimators=n_trees,
        learning_rate=rate,
        max_depth=6,
        subsample=0.5,
        max_features=0.2,
        min_samples_leaf=4,
        random_state=seed,
    )
    with _unchecked():
        boosted.fit(features, target, sample_weight=weights)
    trees = _copied([stage[0].tree_ for stage in boosted.estimators_], rate * n_trees)
    return replace(trees, threshold=single(trees.threshold), value=single(trees.value))


def _unchecked() -> AbstractContextManager[None]:
    """scikit-learn that does not check the same constants again for every tree: a fifth sooner."""
    from sklearn import config_context

    context: AbstractContextManager[None] = config_context(skip_parameter_validation=True)
    return context


def _copied(trees: Sequence[Any], factor: float) -> TreeEnsemble:
    """Fitted trees as arrays, their leaves multiplied by ``factor``."""
    roots, offset = [], 0
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("feature", "threshold", "left", "right", "value")
    }
    for tree in trees:
        leaf = tree.children_left < 0
        roots.append(offset)
        parts["feature"].append(np.where(leaf, LEAF, tree.feature))
        parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
        parts["left"].append(np.where(leaf, 0, tree.children_left + offset))
        parts["right"].append(np.where(leaf, 0, tree.children_right + offset))
        parts["value"].append(np.where(leaf, factor * tree.value[:, 0, 0], 0.0))
        offset += tree.node_count
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return TreeEnsemble(roots=np.array(roots), **joined)
