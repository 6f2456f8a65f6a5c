"""Methods, by name. A new one is a file here and a line in `METHODS`.

Four kinds: a *step* turns a batch into gradients, *pre-training* gives an encoder,
*post-processing* changes a model's outputs, an *estimator* is a model of its own.
"""

from __future__ import annotations

from fairmt.methods.adversarial import Adversarial
from fairmt.methods.balanced import Balanced
from fairmt.methods.barycentre import Barycentre
from fairmt.methods.base import Batch, Method, StepMethod
from fairmt.methods.cooper_constraint import Cooper
from fairmt.methods.correlation import Correlation
from fairmt.methods.cuma import CUMA
from fairmt.methods.dualfair import DualFair
from fairmt.methods.f_ferm import FFERM
from fairmt.methods.fairbranch import FairBranch
from fairmt.methods.faircocco import FairCOCCO
from fairmt.methods.fairmt import FairMT
from fairmt.methods.fairret_penalty import Fairret
from fairmt.methods.gap_penalty import GapPenalty
from fairmt.methods.gramian import Gramian
from fairmt.methods.group_dro import GroupDRO
from fairmt.methods.ifairnmtf import GraphClustering
from fairmt.methods.l2t_fmt import L2TFMT
from fairmt.methods.minimax import Minimax
from fairmt.methods.mmd import MMD
from fairmt.methods.mmm_fair import MultiMaxMistreatment
from fairmt.methods.mta_f import MTAF
from fairmt.methods.plain import Plain
from fairmt.methods.pmrl import PMRL
from fairmt.methods.pmrl_joint import PMRLJoint
from fairmt.methods.postprocessing import PostProcessing
from fairmt.methods.pretraining import PreTraining
from fairmt.methods.scalarised import Scalarised
from fairmt.methods.sensei import SenSeI
from fairmt.methods.single import SingleTask
from fairmt.methods.symmetric import Symmetric
from fairmt.methods.thresholds import GroupThresholds
from fairmt.methods.wasserstein import Wasserstein

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        FairMT,
        Symmetric,
        Plain,
        Balanced,
        SingleTask,
        GroupDRO,
        FairBranch,
        Gramian,
        Scalarised,
        Fairret,
        Cooper,
        GraphClustering,
        MultiMaxMistreatment,
        Barycentre,
        GroupThresholds,
        FairCOCCO,
        FFERM,
        GapPenalty,
        MMD,
        Wasserstein,
        Correlation,
        Adversarial,
        CUMA,
        Minimax,
        L2TFMT,
        MTAF,
        SenSeI,
        DualFair,
        PMRL,
    )
}

STEPS: dict[str, type[StepMethod]] = {
    name: m for name, m in METHODS.items() if issubclass(m, StepMethod)
}

__all__ = [
    "CUMA",
    "FFERM",
    "L2TFMT",
    "METHODS",
    "MMD",
    "MTAF",
    "PMRL",
    "STEPS",
    "Adversarial",
    "Balanced",
    "Barycentre",
    "Batch",
    "Cooper",
    "Correlation",
    "DualFair",
    "FairBranch",
    "FairCOCCO",
    "FairMT",
    "Fairret",
    "GapPenalty",
    "Gramian",
    "GraphClustering",
    "GroupDRO",
    "GroupThresholds",
    "Method",
    "Minimax",
    "MultiMaxMistreatment",
    "PMRLJoint",
    "Plain",
    "PostProcessing",
    "PreTraining",
    "Scalarised",
    "SenSeI",
    "SingleTask",
    "StepMethod",
    "Symmetric",
    "Wasserstein",
    "method",
    "step_method",
]


def method(name: str) -> type[Method]:
    """The method of that name, of any kind.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in METHODS:
        raise ValueError(f"Unknown method '{name}'; expected one of {sorted(METHODS)}.")
    return METHODS[name]


def step_method(name: str) -> type[StepMethod]:
    """The step method of that name.

    Raises
    ------
    ValueError
        If there is none, or the name is that of a method of another kind.
    """
    found = method(name)
    if not issubclass(found, StepMethod):
        raise ValueError(
            f"Method '{name}' is of the kind {found.kind}; expected a step method, one of "
            f"{sorted(STEPS)}."
        )
    return found
