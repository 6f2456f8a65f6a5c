"""AdaBoost for any number of classes, with costs for the errors of mistreated groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import check_random_state

from fairmt.boosting.costs import Mistreatment
from fairmt.boosting.trees import Trees


@dataclass(frozen=True)
class Settings:
    """Of the boosting: rounds, depth of a tree, what shrinks votes, and where ties fall."""

    rounds: int
    tree_depth: int
    learning_rate: float
    seed: int


def boost(
    x: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    n_classes: int,
    settings: Settings,
    mistreatment: Mistreatment | None = None,
    strengths: Sequence[float] = (),
) -> Trees:
    """An ensemble by SAMME (Zhu, Zou, Rosset and Hastie 2009).

    A tree with weighted error e votes with ``α = η (log (1 − e)/e + log (K − 1))``; then the
    weights of its errors grow by ``exp α``, and by their cost if there is a `mistreatment`. Costs
    follow the decisions of the whole ensemble so far. Without, this is scikit-learn's
    AdaBoostClassifier, tree by tree.

    The published costs also multiply α by the tree's confidence in its error; left out, so that
    without costs nothing but AdaBoost remains.

    Parameters
    ----------
    x : array (N, D) float32; labels : array (N,) of class indices; weights : array (N,).
    strengths : λ of the costs, one per round.
    """
    random = check_random_state(settings.seed)
    classes = len(np.unique(labels))
    score = np.zeros((len(x), n_classes))
    rows = np.arange(len(x))
    w = weights / weights.sum()
    absent = w == 0
    trees: list[DecisionTreeClassifier] = []
    votes: list[float] = []
    for r in range(settings.rounds):
        w = np.where(absent, 0.0, np.maximum(w, np.finfo(float).eps))
        tree = DecisionTreeClassifier(
            max_depth=settings.tree_depth, random_state=random.randint(np.iinfo(np.int32).max)
        ).fit(x, labels, sample_weight=w, check_input=False)
        given = tree.predict(x, check_input=False)
        wrong = given != labels
        error = np.average(wrong, weights=w)
        # No better than a guess, whichever way the sum of weights was rounded.
        useless = error > 1 - 1 / classes - 1e-12
        if useless and trees:
            break
        trees.append(tree)
        if useless or error <= 0:
            # The only tree there is, or one that says it all.
            votes.append(1.0)
            break
        votes.append(settings.learning_rate * (np.log((1 - error) / error) + np.log(classes - 1)))
        w = w * np.exp(votes[-1] * wrong)
        if mistreatment is not None:
            score[rows, given] += votes[-1]
            recalls = mistreatment.recalls(score.argmax(1) == labels)
            costs = mistreatment.costs(mistreatment.mistreatment(recalls), strengths[r])
            w = np.where(wrong, w * costs, w)
        w = w / w.sum()
    return Trees.grown(trees, votes, n_classes)
