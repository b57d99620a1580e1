"""Importance of filters, from feature maps and labels or from weights; one file per criterion."""

from infoprune.criteria import (  # noqa: F401 - they register
    apoz,
    attention,
    bn_scale,
    capacity,
    chip,
    cmi,
    coring,
    fisher,
    fpgm,
    fsim,
    hrank,
    hrel,
    hsic_lasso,
    map_entropy,
    mrmr,
    next_layer,
    phash,
    prf,
    qsfm,
    random,
    taylor,
    variance,
    wavelet,
    weight_norm,
)
from infoprune.criteria.base import (
    Criterion,
    CriterionInfo,
    Filters,
    Importance,
    Tap,
    all_criteria,
    create,
    find,
    register,
)
from infoprune.criteria.from_function import register_criterion, resolve

__all__ = [
    "Criterion",
    "CriterionInfo",
    "Filters",
    "Importance",
    "Tap",
    "all_criteria",
    "create",
    "find",
    "register",
    "register_criterion",
    "resolve",
]
