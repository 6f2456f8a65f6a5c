"""Fair clusters of a graph: the objective, its descent, what is refused, and what is measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.utils.estimator_checks import check_estimator

from fairmt.graphs import IFairNMTF, balance, individual_balance, modularity
from fairmt.graphs.factors import Factors, Means, _ratio, _State, factorise, start
from fairmt.methods import METHODS

rng = np.random.default_rng


def topics_and_groups(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ties follow the group closely and a topic less so; topics cross groups."""
    r = rng(seed)
    group, topic = np.arange(n) % 2, (np.arange(n) // 2) % 2
    same_group, same_topic = group[:, None] == group, topic[:, None] == topic
    p = 0.02 + 0.30 * same_group + 0.22 * same_topic
    upper = np.triu(r.random((n, n)) < p, 1)
    return (upper | upper.T).astype(float), group, topic


def dense_objective(
    A: np.ndarray, H: np.ndarray, W: np.ndarray, codes: np.ndarray, strength: float
) -> float:
    """The definition, written with n x n matrices."""
    fit = np.linalg.norm(A - H @ W @ H.T) ** 2 / np.linalg.norm(A) ** 2
    total = 0.0
    for column in codes.T:
        for h in H.T:
            known = column >= 0
            m = h[known].mean()
            between = sum(
                (column == g).sum() * (h[column == g].mean() - m) ** 2 for g in set(column[known])
            )
            total += between / (h @ h)
    return float(fit + strength / H.shape[1] * total / codes.shape[1])


@pytest.fixture
def state() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A weighted graph, factors, and two attributes with missing groups and a singleton."""
    r = rng(3)
    A = np.triu(r.random((14, 14)) * (r.random((14, 14)) < 0.5), 1)
    H, W = r.random((14, 3)), r.random((3, 3))
    codes = np.stack([r.integers(-1, 3, 14), r.integers(0, 2, 14)], 1)
    codes[:, 0] = np.where(codes[:, 0] == 2, 1, codes[:, 0])
    codes[5, 0] = 2
    return A + A.T, H / np.linalg.norm(H, axis=0), W + W.T, codes


def test_the_sparse_objective_is_its_definition(state: Any) -> None:
    A, H, W, codes = state
    norm = (A**2).sum()
    found = _State(sp.csr_array(A), Means(codes), H).objective(W, norm, 7.0 / 3)
    assert found == pytest.approx(dense_objective(A, H, W, codes, 7.0), rel=1e-12)


def test_the_objective_is_free_of_scale(state: Any) -> None:
    A, H, W, codes = state
    c = np.array([0.1, 3.0, 50.0])
    other = dense_objective(A, H * c, W / np.outer(c, c), codes, 7.0)
    assert other == pytest.approx(dense_objective(A, H, W, codes, 7.0), rel=1e-12)


def test_the_gradient_agrees_with_finite_differences(state: Any) -> None:
    A, H, W, codes = state
    norm, strength, step = (A**2).sum(), 7.0, 1e-6
    gradient = np.zeros_like(H)
    for i, c in np.ndindex(*H.shape):
        up, down = H.copy(), H.copy()
        up[i, c] += step
        down[i, c] -= step
        gradient[i, c] = (
            dense_objective(A, up, W, codes, strength)
            - dense_objective(A, down, W, codes, strength)
        ) / (2 * step)
    found = _State(sp.csr_array(A), Means(codes), H)
    ratio = _ratio(found, W, norm, strength / 3)
    push = 4 / norm * H @ (W @ H.T @ H @ W) + 2 * strength / 3 * found.within
    np.testing.assert_allclose(push * (1 - ratio), gradient, atol=1e-7)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0, 30.0, 1000.0])
def test_the_objective_falls_and_stays_finite(strength: float) -> None:
    A, group, _ = topics_and_groups()
    begin = start(len(A), 4, np.random.RandomState(0), 1.0)
    found = factorise(sp.csr_array(A), Means(group[:, None]), begin, strength, 200, 0.0)
    assert len(found.history) > 5
    assert np.isfinite(found.history).all()
    assert (np.diff(found.history) <= 0).all()
    assert 0 <= found.history[-1] < found.history[0]
    assert np.isfinite(found.H).all()
    assert np.isfinite(found.W).all()


def test_the_fixed_scale_is_the_same_product(state: Any) -> None:
    _, H, W, _ = state
    memberships, interactions = Factors(H, W, []).scaled()
    np.testing.assert_allclose(memberships @ interactions @ memberships.T, H @ W @ H.T)
    np.testing.assert_allclose(interactions.sum(1), 1.0)


def test_the_weight_trades_groups_for_topics() -> None:
    A, group, topic = topics_and_groups()
    fit = IFairNMTF(2, strengths=(0.0, 0.3, 3.0), random_state=0).fit(A, sensitive_features=group)
    blind, fair = fit.path_[0], fit.path_[-1]
    assert max((blind.labels == group).mean(), (blind.labels != group).mean()) > 0.95
    assert max((fair.labels == topic).mean(), (fair.labels != topic).mean()) > 0.95
    assert blind.balance < 0.1
    assert fair.balance > 0.9
    assert blind.modularity > fair.modularity > 0.1


def test_all_attributes_count() -> None:
    """With topic as a second attribute, the clusters may follow neither."""
    A, group, topic = topics_and_groups()
    both = {"group": group, "topic": topic}
    fit = IFairNMTF(2, strengths=(0.0, 10.0), random_state=0).fit(A, sensitive_features=both)
    assert set(fit.path_[-1].balances) == {"group", "topic"}
    assert fit.path_[0].balance < 0.1
    assert fit.path_[-1].balance == min(fit.path_[-1].balances.values()) > 0.6


def test_groups_may_be_renamed_and_graphs_be_dense_or_sparse() -> None:
    A, group, _ = topics_and_groups()
    settings: dict[str, Any] = {"strengths": (0.5,), "random_state": 0}
    one = IFairNMTF(3, **settings).fit(A, sensitive_features=group)
    other = np.where(group == 0, "zebra", "ape")
    two = IFairNMTF(3, **settings).fit(sp.coo_matrix(A), sensitive_features=other)
    np.testing.assert_array_equal(one.labels_, two.labels_)
    np.testing.assert_allclose(one.memberships_, two.memberships_, atol=1e-8)


def test_a_missing_group_contributes_nothing() -> None:
    """It has no mean, is in no mean, and so feels no penalty."""
    codes = np.array([[0], [0], [1], [1], [-1]])
    H = rng(0).random((5, 2))
    means = Means(codes)
    assert (means.within(H)[4] == 0).all()
    assert (means.overall(H)[4] == 0).all()
    moved = H.copy()
    moved[4] = 100.0
    np.testing.assert_array_equal(means.within(H), means.within(moved))
    np.testing.assert_array_equal(means.overall(H), means.overall(moved))
    np.testing.assert_allclose(means.overall(H)[0], H[:4].mean(0))


def test_missing_groups_and_singletons_in_a_fit() -> None:
    A, group, _ = topics_and_groups()
    names = np.array(["a", "b"], dtype=object)[group]
    names[:10] = None
    names[11] = "alone"
    fit = IFairNMTF(3, random_state=0).fit(A, sensitive_features=names)
    assert all(np.isfinite(c.objective).all() for c in fit.path_)
    assert set(fit.labels_) <= {0, 1, 2}


def test_nodes_without_ties_belong_nowhere() -> None:
    A, group, _ = topics_and_groups(60)
    alone = [3, 40]
    A[alone] = A[:, alone] = 0
    A[3, 3] = 5.0  # a tie to oneself is none
    fit = IFairNMTF(2, strengths=(1.0,), random_state=0).fit(A, sensitive_features=group)
    assert (fit.labels_[alone] == -1).all()
    assert (fit.memberships_[alone] == 0).all()
    rest = np.delete(np.arange(60), alone)
    sub = IFairNMTF(2, strengths=(1.0,), random_state=0)
    sub.fit(A[np.ix_(rest, rest)], sensitive_features=group[rest])
    np.testing.assert_array_equal(fit.labels_[rest], sub.labels_)


def test_a_bipartite_graph_has_its_sides() -> None:
    """All ties are between clusters: what a diagonal W could not say."""
    A = np.zeros((10, 10))
    A[:4, 4:] = A[4:, :4] = 1
    fit = IFairNMTF(2, strengths=(0,), random_state=0).fit(A)
    assert len(set(fit.labels_[:4])) == len(set(fit.labels_[4:])) == 1
    np.testing.assert_allclose(fit.interactions_, [[0, 1], [1, 0]], atol=1e-3)


def test_large_graphs_need_little_memory() -> None:
    """A square matrix of this size would take 320 GB."""
    n = 200_000
    ring = sp.coo_array((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), (n, n))
    fit = IFairNMTF(3, strengths=(1.0,), max_iter=2, n_init=1, random_state=0)
    fit.fit(ring + ring.T, sensitive_features=np.arange(n) % 4)
    assert len(fit.labels_) == n


def test_the_choice() -> None:
    A, group, _ = topics_and_groups()
    fit = IFairNMTF(4, random_state=0).fit(A, sensitive_features=group)
    for one in fit.front_:
        assert not any(
            o.modularity >= one.modularity and o.balance > one.balance for o in fit.path_
        )
    assert fit.candidate_ in fit.front_
    floor = float(np.median([c.modularity for c in fit.path_]))
    chosen = fit.choose(min_modularity=floor)
    assert chosen.balance == max(c.balance for c in fit.path_ if c.modularity >= floor)
    np.testing.assert_array_equal(fit.labels_, chosen.labels)
    chosen = fit.choose(min_balance=0.5)
    assert chosen.modularity == max(c.modularity for c in fit.path_ if c.balance >= 0.5)
    with pytest.raises(ValueError, match=r"highest is .* at strength"):
        fit.choose(min_modularity=0.99)
    with pytest.raises(ValueError, match="not both"):
        fit.choose(min_modularity=0.1, min_balance=0.1)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[0, 1.0], [0, 0]]), r"directed graph: .*node 0 to node 1.*X \+ X\.T"),
        (np.array([[0, -1.0], [-1.0, 0]]), "Negative values"),
        (np.array([[0, np.nan], [np.nan, 0]]), "NaN"),
        (np.ones((3, 2)), "adjacency"),
        (np.eye(3), "no ties"),
    ],
)
def test_what_is_refused(X: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IFairNMTF(2).fit(X, sensitive_features=np.arange(len(X)) % 2)


def test_settings_that_are_refused() -> None:
    A, group, _ = topics_and_groups(20)
    with pytest.raises(ValueError, match="needs sensitive_features"):
        IFairNMTF(2).fit(A)
    with pytest.raises(ValueError, match="19 rows for 20 nodes"):
        IFairNMTF(2).fit(A, sensitive_features=group[1:])
    with pytest.raises(ValueError, match="comparison needs two"):
        IFairNMTF(2).fit(A, sensitive_features=np.zeros(20))
    with pytest.raises(ValueError, match="n_clusters=21"):
        IFairNMTF(21).fit(A, sensitive_features=group)
    with pytest.raises(ValueError, match="strengths must be"):
        IFairNMTF(2, strengths=(-1.0,)).fit(A, sensitive_features=group)


def test_modularity_agrees_with_networkx() -> None:
    r = rng(1)
    A = np.triu(r.random((30, 30)) * (r.random((30, 30)) < 0.3), 1)
    A += A.T
    labels = r.integers(0, 4, 30)
    communities = [set(np.flatnonzero(labels == c)) for c in range(4)]
    expected = nx.community.modularity(nx.from_numpy_array(A), communities)
    assert modularity(sp.csr_array(A), labels) == pytest.approx(expected, abs=1e-12)


def test_balances_of_a_hand_case() -> None:
    """Cluster 0 has 3 and 1, cluster 1 has 1 and 2; a node without cluster or group is nowhere."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, -1, 0])
    codes = np.array([0, 0, 0, 1, 0, 1, 1, 1, -1])
    each, mean = balance(labels, codes)
    np.testing.assert_allclose(each, [1 / 3, 1 / 2])
    assert mean == pytest.approx(5 / 12)
    # Peers by cluster: three see (2, 1), one (3, 0); of the other group one (0, 2), two (1, 1).
    assert individual_balance(labels, codes) == pytest.approx((3 * 0.5 + 0 + 0 + 2 * 1.0) / 7)


def test_the_registry_knows_it() -> None:
    assert METHODS["ifairnmtf"].kind == "estimator"
    assert issubclass(IFairNMTF, METHODS["ifairnmtf"])


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it() -> None:
    """All checks that give a graph; two give a table of features, which is refused by name."""
    feature_table = "gives a table of features, not a graph"
    check_estimator(
        IFairNMTF(strengths=(0.0,), n_init=1, max_iter=30),
        expected_failed_checks={
            "check_clustering": feature_table,
            "check_clustering(readonly_memmap=True)": feature_table,
        },
    )


@pytest.mark.data
@pytest.mark.skipif("FAIRMT_DATA" not in os.environ, reason="FAIRMT_DATA is not set")
def test_the_contact_diaries() -> None:
    folder = Path(os.environ["FAIRMT_DATA"]) / "graphs" / "School"
    A = np.loadtxt(folder / "diaries.csv", delimiter=",")
    gender = np.loadtxt(folder / "cd_attr.csv")
    fit = IFairNMTF(5, random_state=0).fit(A, sensitive_features=gender)
    chosen = fit.choose(min_modularity=0.6)
    assert chosen.balance > 0.7
