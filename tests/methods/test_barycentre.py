"""The quantile repair against closed forms, NumPy's quantiles and SciPy's distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from fairmt.groups import Attribute, Groups
from fairmt.methods.barycentre import Barycentre, quantiles, transport
from fairmt.tasks import Classification, Detection, Layout, Regression

SEX = Groups((Attribute("sex", ("men", "women")),))
BOTH = Groups((Attribute("sex", ("men", "women")), Attribute("age", ("young", "old"))))
VALUE = Layout((Regression("value"),))


def repaired(
    layout: Layout, groups: Groups, outputs: Tensor, codes: Tensor, **settings: float
) -> tuple[Tensor, Barycentre]:
    """Fitted and applied on the same rows."""
    method = Barycentre(**settings)  # type: ignore[arg-type]
    labels = torch.full((len(outputs), layout.n_labels), torch.nan)
    method.fit(layout, groups, outputs, labels, codes)
    return method.apply(outputs, codes), method


def normals(n: int = 20_000) -> tuple[Tensor, Tensor]:
    """A quarter from N(3, 2²), the rest from N(-1, 1)."""
    g = torch.Generator().manual_seed(0)
    codes = (torch.arange(n) % 4 == 0).long()[:, None]
    x = torch.randn(n, 1, generator=g, dtype=torch.float64)
    return torch.where(codes == 1, 3 + 2 * x, x - 1), codes


def test_quantiles_agree_with_numpy() -> None:
    x = np.random.default_rng(0).normal(size=(7, 2))
    levels = (np.arange(9) + 0.5) / 9
    expected = np.quantile(x, levels, axis=0, method="hazen").T
    found = quantiles(torch.tensor(x), torch.ones(7, dtype=torch.float64), 9)
    np.testing.assert_allclose(found, expected)


def test_whole_weights_are_repetitions_in_the_limit() -> None:
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(3000, 1, generator=g).double(), torch.randint(1, 4, (3000,), generator=g)
    often = x.repeat_interleave(w, 0)
    a = quantiles(x, w.double(), 50)
    b = quantiles(often, torch.ones(len(often), dtype=torch.float64), 50)
    torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_transport_of_a_hand_case() -> None:
    """Levels 0 to 3; between, at a tie, and beyond both ends."""
    source = torch.tensor([[0.0, 2.0, 2.0, 4.0]])
    target = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [-7.0]])
    expected = torch.tensor([[10.0], [15.0], [25.0], [35.0], [40.0], [41.0], [3.0]])
    torch.testing.assert_close(transport(x, source, target), expected)


def test_normals_have_a_closed_form() -> None:
    """The barycentre of normals is normal, with the mean of means and the mean of deviations."""
    x, codes = normals()
    moved, _ = repaired(VALUE, SEX, x, codes, prior=0.0)
    mean, deviation = 0.75 * -1 + 0.25 * 3, 0.75 * 1 + 0.25 * 2
    z = torch.where(codes == 1, (x - 3) / 2, x + 1)
    inner = z.abs() < 2
    torch.testing.assert_close(moved[inner], (mean + deviation * z)[inner], atol=0.1, rtol=0)


def test_the_whole_repair_is_parity_at_the_same_mean() -> None:
    x, codes = normals()
    moved, _ = repaired(VALUE, SEX, x, codes, prior=0.0)
    groups = [moved[codes[:, 0] == g, 0].numpy() for g in (0, 1)]
    assert ks_2samp(*groups).statistic < 2 / 512
    assert float(moved.mean()) == pytest.approx(float(x.mean()), abs=5e-3)


def test_half_the_repair_leaves_half_the_distance() -> None:
    x, codes = normals()
    _, method = repaired(VALUE, SEX, x, codes, prior=0.0)
    women = codes[:, 0] == 1

    def distance(o: Tensor) -> float:
        return float(o[women].mean() - o[~women].mean())

    assert distance(method.apply(x, codes, 0.5)) == pytest.approx(distance(x) / 2, rel=0.01)


def test_no_predictor_with_parity_is_nearer() -> None:
    """Any shift-and-scale to a common law that is not the barycentre costs more."""
    x, codes = normals()
    moved, _ = repaired(VALUE, SEX, x, codes, prior=0.0)
    z = torch.where(codes == 1, (x - 3) / 2, x + 1)
    own = float(((moved - x) ** 2).mean())
    for mean, deviation in ((0.0, 1.0), (0.0, 1.5), (0.3, 1.25), (-1.0, 1.0)):
        assert own < float(((mean + deviation * z - x) ** 2).mean())


def test_intersections_too() -> None:
    """A gap that only the combinations have: repairing one attribute after the other sees none."""
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (8000, 2), generator=g)
    x = torch.randn(8000, 1, generator=g).double() + 2.0 * (codes[:, :1] == codes[:, 1:])
    moved, _ = repaired(VALUE, BOTH, x, codes, prior=0.0)
    same = (codes[:, 0] == codes[:, 1]).numpy()
    assert ks_2samp(x[same, 0], x[~same, 0]).statistic > 0.6
    assert ks_2samp(moved[same, 0], moved[~same, 0]).statistic < 0.01


def test_small_cells_are_shrunk_to_the_sum_of_effects() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (6000, 2), generator=g)
    codes[(codes == 1).all(1), 1] = 0
    codes[:3] = 1  # three people in the last cell
    effect = codes.double() @ torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    x = torch.randn(6000, 1, generator=g).double() + effect
    x[:3] = 50.0
    _, method = repaired(VALUE, BOTH, x, codes, prior=30.0)
    middle = method._functions[(method._cells == 1).all(1)][0, 0, 256]
    assert 1.5 < float(middle) < 1.5 + 50 * 3 / 30


def test_what_is_missing_is_averaged_over() -> None:
    """Nothing known: from everybody's distribution. One known: from that group's."""
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (20_000, 2), generator=g)
    x = torch.randn(20_000, 1, generator=g).double() + codes[:, :1] * 2.0
    _, method = repaired(VALUE, BOTH, x, codes, prior=0.0)
    unknown = torch.full_like(codes, -1)
    everybody = method.apply(x, unknown)
    target = method.apply(x, codes)
    assert ks_2samp(everybody[:, 0], target[:, 0]).statistic < 0.01
    age_unknown = torch.stack([codes[:, 0], unknown[:, 1]], 1)
    assert float((method.apply(x, age_unknown) - target).abs().mean()) < 0.02


def test_two_classes_are_a_label() -> None:
    """The same repair, and logits that keep their level."""
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (3000, 1), generator=g)
    o = torch.randn(3000, 2, generator=g).double() + codes * torch.tensor([[1.0, -0.5]])
    classes, _ = repaired(Layout((Classification("c", ("no", "yes")),)), SEX, o, codes)
    label, _ = repaired(Layout((Detection("d", ("yes",)),)), SEX, o[:, 1:] - o[:, :1], codes)
    torch.testing.assert_close(classes[:, 1:] - classes[:, :1], label, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(classes.logsumexp(1), o.logsumexp(1))


def test_three_classes_come_close() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (20_000, 1), generator=g)
    push = torch.tensor([[1.0, 0.0, -1.0]]) * codes
    o = 2 * torch.randn(20_000, 3, generator=g).double() + push
    moved, _ = repaired(Layout((Classification("c", ("a", "b", "c")),)), SEX, o, codes)
    women = codes[:, 0] == 1

    def gap(x: Tensor) -> Tensor:
        given = torch.nn.functional.one_hot(x.argmax(1), 3).double()
        return (given[women].mean(0) - given[~women].mean(0)).abs().max()

    assert float(gap(o)) > 0.2
    assert float(gap(moved)) < 0.2 * float(gap(o))
    change = (moved.softmax(1) - o.softmax(1)).abs().mean()
    assert float(change) < 0.15


def test_sure_scores_stay_finite() -> None:
    codes = torch.tensor([[0], [1]] * 20)
    o = torch.tensor([[-60.0], [60.0]]).repeat(20, 1)
    moved, _ = repaired(Layout((Detection("d", ("yes",)),)), SEX, o, codes)
    assert bool(moved.isfinite().all())


@pytest.mark.parametrize("settings", [{"prior": -1.0}, {"levels": 1}])
def test_settings_that_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Barycentre(**settings)  # type: ignore[arg-type]
