"""Every cell of the notion table, worked out by hand on ten rows.

Rows of men and women alternate, so that an index into the batch in the place of an index into a
group shows. Each table holds a row without a group and rows with missing labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction as F

import torch
from torch import Tensor

from fairmt.groups import Attribute, Groups
from fairmt.notions import NOTIONS
from fairmt.tasks import Classification, Detection, Regression, Task

NAN = float("nan")
TEMPERATURE = 0.5
GROUPS = Groups((Attribute("sex", ("men", "women")),))

CELLS = [(kind, notion.name) for notion in NOTIONS.values() for kind in notion.measures]
"""All (kind of task, notion): tests are parametrised over it, so that a new cell is asked for."""

Rates = Mapping[str, tuple[F | float, F | float]]
"""Expected rate of men and of women, by name of the statistic."""


@dataclass(frozen=True)
class Table:
    """Rows that a hand case is worked out on.

    `codes` are 0 for men, 1 for women, -1 where unknown; `labels` are in the task's units.
    """

    task: Task
    codes: list[int]
    outputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class HandCase:
    hard: Rates
    soft: Rates
    table: Table
    soft_table: Table | None = None


# -- one of three classes ----------------------------------------------------------------------
# The predicted class has odds 4 : 1 : 1. Its probability is 2/3 and that of the others 1/6; at
# temperature 1/2 odds are squared, 16 : 1 : 1, and soft decisions are H = 8/9 and L = 1/18.
#
#   row  1     2     3     4     5     6     7     8     9     10      11
#        men   women men   women men   women men   women men   women   ?
#   pred a     b     a     a     b     c     c     c     a     b       b
#   true a     a     a     a     b     b     c     c     c     missing b

_CLASSES = "abc"


def _one_of_three(predicted: str) -> Tensor:
    return torch.tensor(
        [[math.log(4.0) if c == p else 0.0 for c in _CLASSES] for p in predicted],
        dtype=torch.float64,
    )


THREE_CLASSES = Table(
    Classification("job", tuple(_CLASSES)),
    [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -1],
    _one_of_three("abaabcccabb"),
    torch.tensor([[0.0, 0, 0, 0, 1, 1, 2, 2, 2, NAN, 1]], dtype=torch.float64).T,
)

# -- two yes/no labels -------------------------------------------------------------------------
# "Yes" has odds 3 and "no" odds 1/3: probabilities 3/4 and 1/4; at temperature 1/2 odds 9 and
# 1/9, soft decisions .9 and .1.
#
#   row      1     2     3     4     5     6     7     8     9   10
#            men   women men   women men   women men   women ?   women
#   x pred   1     0     1     1     1     0     0     0     1   1
#   x true   1     1     0     1     1     0     0     0     1   missing
#   y pred   0     1     1     0     1     0     0     1     1   1
#   y true   0     1     miss. 0     1     1     1     0     1   1

TWO_LABELS = Table(
    Detection("finding", ("x", "y")),
    [0, 1, 0, 1, 0, 1, 0, 1, -1, 1],
    math.log(3.0)
    * (
        2
        * torch.tensor(
            [[1, 0, 1, 1, 1, 0, 0, 0, 1, 1], [0, 1, 1, 0, 1, 0, 0, 1, 1, 1]], dtype=torch.float64
        ).T
        - 1
    ),
    torch.tensor(
        [[1, 1, 0, 1, 1, 0, 0, 0, 1, NAN], [0, 1, NAN, 0, 1, 1, 1, 0, 1, 1]], dtype=torch.float64
    ).T,
)

# -- one real value ----------------------------------------------------------------------------
# Centre 10, scale 2; outputs are standardised, labels are not.
#
#   row       1    2      3     4      5    6      7     8      9
#             men  women  men   women  men  women  men   women  ?
#   output    .5   1      -.5   0      1    2      1.5   -1     .5
#   label     11   10     10    13     14   14     miss. miss.  11
#   standard  .5   0      0     1.5    2    2                   .5
#   error     0    1      -.5   -1.5   -1   0                   0

VALUE = Table(
    Regression("score", centre=(10.0,), scale=(2.0,)),
    [0, 1, 0, 1, 0, 1, 0, 1, -1],
    torch.tensor([[0.5, 1, -0.5, 0, 1, 2, 1.5, -1, 0.5]], dtype=torch.float64).T,
    torch.tensor([[11, 10, 10, 13, 14, 14, NAN, NAN, 11]], dtype=torch.float64).T,
)

# Soft distributions are worked out on two people, half a standard deviation apart.
TWO_VALUES = Table(
    Regression("score", centre=(10.0,), scale=(2.0,)),
    [0, 1],
    torch.tensor([[0.0], [0.5]], dtype=torch.float64),
    torch.tensor([[NAN], [NAN]], dtype=torch.float64),
)

_CLASS_RECALL_HARD: Rates = {
    # men: 1 and 3 of 1, 3; 5 of 5; 7 of 7, 9. women: 4 of 2, 4; none of 6; 8 of 8.
    "recall of a": (1, F(1, 2)),
    "recall of b": (1, 0),
    "recall of c": (F(1, 2), 1),
}
_CLASS_RECALL_SOFT: Rates = {
    # A mean of H for each hit and L for each miss: (H + L)/2 = 17/36.
    "recall of a": (F(8, 9), F(17, 36)),
    "recall of b": (F(8, 9), F(1, 18)),
    "recall of c": (F(17, 36), F(8, 9)),
}
_LABEL_RECALL_HARD: Rates = {
    # x: men 1, 5 of 1, 5; women 4 of 2, 4. y: men 5 of 5, 7; women 2, 10 of 2, 6, 10.
    "recall of x": (1, F(1, 2)),
    "recall of y": (F(1, 2), F(2, 3)),
}
_LABEL_RECALL_SOFT: Rates = {
    "recall of x": (0.9, F(1, 2)),
    "recall of y": (F(1, 2), F(19, 30)),
}
_CLASS_BIAS: Rates = {
    # men: sum of probabilities 3·2/3 + 2/6 = 7/3 for a, 2/3 + 4/6 = 4/3 for b and c; true are
    # 2, 1, 2 of 5. women: 2/3 + 3/6 = 7/6, 7/6, 2·2/3 + 2/6 = 5/3; true are 2, 1, 1 of 4.
    "calibration in the large of a": (F(1, 15), F(-5, 24)),
    "calibration in the large of b": (F(1, 15), F(1, 24)),
    "calibration in the large of c": (F(-2, 15), F(1, 6)),
}
_LABEL_BIAS: Rates = {
    # x: men 2.5 for 2 of 4, women 1.5 for 2 of 4. y: men 1.25 for 2 of 3, women 2.75 for 3 of 5.
    "calibration in the large of x": (F(1, 8), F(-1, 8)),
    "calibration in the large of y": (F(-1, 4), F(-1, 20)),
}
_CLASS_CALIBRATION: Rates = {
    # Two bins are filled, that of 2/3 and that of 1/6: |sum of p - y| of each, over the rows.
    # men: a |0| + |1/3|; b |-1/3| + |2/3|; c |-1/3| + |-1/3|, of 5.
    # women: a |-1/3| + |-1/2|; b |2/3| + |-1/2|; c |1/3| + |1/3|, of 4.
    "calibration error of a": (F(1, 15), F(5, 24)),
    "calibration error of b": (F(1, 5), F(7, 24)),
    "calibration error of c": (F(2, 15), F(1, 6)),
}
_LABEL_CALIBRATION: Rates = {
    # Bins of 3/4 and 1/4. x: men |.25| + |.25| of 4, women |-.25| + |-.25| of 4.
    # y: men |-.25| + |-.5| of 3, women |.25| + |-.5| of 5.
    "calibration error of x": (F(1, 8), F(1, 8)),
    "calibration error of y": (F(1, 4), F(3, 20)),
}
_MEAN_PREDICTION: Rates = {
    # Rows without a label count. men (.5 - .5 + 1 + 1.5)/4, women (1 + 0 + 2 - 1)/4.
    "mean prediction": (F(5, 8), F(1, 2))
}
_SQUARED: Rates = {
    # men (0 + 1/4 + 1)/3, women (1 + 9/4 + 0)/3.
    "mean squared error": (F(5, 12), F(13, 12))
}
_ABSOLUTE: Rates = {"mean absolute error": (F(1, 2), F(5, 6))}
_RESIDUAL: Rates = {"mean residual": (F(-1, 2), F(-1, 6))}
_CONCORDANCE: Rates = {
    # men: means 1/3 and 5/6, covariance 17/36, variances 14/36 and 26/36, squared difference of
    # means 9/36. women: means 1 and 7/6, covariance 6/36, variances 24/36 and 26/36, 1/36.
    "concordance": (F(34, 49), F(12, 51))
}

HAND: dict[tuple[str, str], HandCase] = {
    ("classification", "equal_opportunity"): HandCase(
        _CLASS_RECALL_HARD, _CLASS_RECALL_SOFT, THREE_CLASSES
    ),
    ("detection", "equal_opportunity"): HandCase(
        _LABEL_RECALL_HARD, _LABEL_RECALL_SOFT, TWO_LABELS
    ),
    ("classification", "equalized_odds"): HandCase(
        {
            **_CLASS_RECALL_HARD,
            # men: 9 of 5, 7, 9 is put into a, none into b or c. women: none of 6, 8 into a; 2 of
            # 2, 4, 8 into b; 6 of 2, 4, 6 into c.
            "false alarm rate of a": (F(1, 3), 0),
            "false alarm rate of b": (0, F(1, 3)),
            "false alarm rate of c": (0, F(1, 3)),
        },
        {
            **_CLASS_RECALL_SOFT,
            # H + 2L = 1.
            "false alarm rate of a": (F(1, 3), F(1, 18)),
            "false alarm rate of b": (F(1, 18), F(1, 3)),
            "false alarm rate of c": (F(1, 18), F(1, 3)),
        },
        THREE_CLASSES,
    ),
    ("detection", "equalized_odds"): HandCase(
        {
            **_LABEL_RECALL_HARD,
            # x: men 7 of 3, 7; women 6, 8 of 6, 8. y: men 1 of 1; women 4 of 4, 8.
            "true negative rate of x": (F(1, 2), 1),
            "true negative rate of y": (1, F(1, 2)),
        },
        {
            **_LABEL_RECALL_SOFT,
            "true negative rate of x": (F(1, 2), 0.9),
            "true negative rate of y": (0.9, F(1, 2)),
        },
        TWO_LABELS,
    ),
    ("classification", "predictive_parity"): HandCase(
        {
            # Row 10 has no label: men 1, 3 of 1, 3, 9; 5 of 5; 7 of 7. women 4 of 4; none of 2;
            # 8 of 6, 8.
            "precision of a": (F(2, 3), 1),
            "precision of b": (1, 0),
            "precision of c": (1, F(1, 2)),
        },
        {
            # men: 2H of 3H + 2L; H of H + 4L; H + L of H + 4L. women: H + L and L of H + 3L; H of
            # 2H + 2L.
            "precision of a": (F(32, 50), F(17, 19)),
            "precision of b": (F(16, 20), F(1, 19)),
            "precision of c": (F(17, 20), F(16, 34)),
        },
        THREE_CLASSES,
    ),
    ("detection", "predictive_parity"): HandCase(
        {
            # x: men 1, 5 of 1, 3, 5; women 4 of 4. y: men 5 of 5; women 2, 10 of 2, 8, 10.
            "precision of x": (F(2, 3), 1),
            "precision of y": (1, F(2, 3)),
        },
        {
            "precision of x": (F(18, 28), F(10, 12)),
            "precision of y": (F(10, 11), F(19, 29)),
        },
        TWO_LABELS,
    ),
    ("classification", "accuracy_parity"): HandCase(
        # men all but 9; women 4, 8 of 2, 4, 6, 8.
        {"accuracy": (F(4, 5), F(1, 2))},
        # (4H + L)/5 and (2H + 2L)/4.
        {"accuracy": (F(13, 18), F(17, 36))},
        THREE_CLASSES,
    ),
    ("detection", "accuracy_parity"): HandCase(
        {
            # x: men all but 3, women all but 2, of 4. y: men 1, 5 of 3; women 2, 4, 10 of 5.
            "label accuracy of x": (F(3, 4), F(3, 4)),
            "label accuracy of y": (F(2, 3), F(3, 5)),
        },
        {
            "label accuracy of x": (0.7, 0.7),
            "label accuracy of y": (F(19, 30), 0.58),
        },
        TWO_LABELS,
    ),
    ("classification", "demographic_parity"): HandCase(
        {
            # Rows without a label count: five men, five women.
            "predicted rate of a": (F(3, 5), F(1, 5)),
            "predicted rate of b": (F(1, 5), F(2, 5)),
            "predicted rate of c": (F(1, 5), F(2, 5)),
        },
        {
            # (3H + 2L)/5, (H + 4L)/5, (2H + 3L)/5.
            "predicted rate of a": (F(5, 9), F(2, 9)),
            "predicted rate of b": (F(2, 9), F(7, 18)),
            "predicted rate of c": (F(2, 9), F(7, 18)),
        },
        THREE_CLASSES,
    ),
    ("detection", "demographic_parity"): HandCase(
        {
            "predicted rate of x": (F(3, 4), F(2, 5)),
            "predicted rate of y": (F(1, 2), F(3, 5)),
        },
        {
            "predicted rate of x": (0.7, 0.42),
            "predicted rate of y": (0.5, 0.58),
        },
        TWO_LABELS,
    ),
    ("regression", "demographic_parity"): HandCase(_MEAN_PREDICTION, _MEAN_PREDICTION, VALUE),
    ("regression", "distribution_parity"): HandCase(
        {
            # Distribution functions from -1, -1/2, 0, 1/2, 1, 3/2, 2 on, two edges each:
            #   everybody 1/9 2/9 3/9 5/9 7/9 8/9 1
            #   men       0   1/4 1/4 1/2 3/4 1   1      differences 4 1 3 2 1 4 0 of 36
            #   women     1/4 1/4 1/2 1/2 3/4 3/4 1      differences 5 1 6 2 1 5 0 of 36
            "score distance (KS)": (F(4, 36), F(6, 36)),
            "score distance (Wasserstein)": (F(15, 72), F(20, 72)),
        },
        {
            # Half the difference of the two steps. At the edge between them it is
            # (σ(4) - σ(-4))/2 = tanh(2)/2; over all edges the differences add up to half the
            # distance of the two.
            "score distance (KS)": (math.tanh(2) / 2, math.tanh(2) / 2),
            "score distance (Wasserstein)": (F(1, 4), F(1, 4)),
        },
        VALUE,
        TWO_VALUES,
    ),
    ("regression", "error_parity"): HandCase(_SQUARED, _SQUARED, VALUE),
    ("regression", "absolute_error_parity"): HandCase(_ABSOLUTE, _ABSOLUTE, VALUE),
    ("regression", "concordance_parity"): HandCase(_CONCORDANCE, _CONCORDANCE, VALUE),
    ("classification", "bias_parity"): HandCase(_CLASS_BIAS, _CLASS_BIAS, THREE_CLASSES),
    ("detection", "bias_parity"): HandCase(_LABEL_BIAS, _LABEL_BIAS, TWO_LABELS),
    ("regression", "bias_parity"): HandCase(_RESIDUAL, _RESIDUAL, VALUE),
    ("classification", "calibration"): HandCase(
        _CLASS_CALIBRATION, _CLASS_CALIBRATION, THREE_CLASSES
    ),
    ("detection", "calibration"): HandCase(_LABEL_CALIBRATION, _LABEL_CALIBRATION, TWO_LABELS),
}
