"""A user's own criterion: a function from feature maps to scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from infoprune.criteria.base import CriterionInfo, Importance, Tap, all_criteria, find, register
from infoprune.criteria.holding import holding
from infoprune.entropy import variables
from infoprune.entropy.copies import copies
from infoprune.entropy.ties import rounding
from infoprune.errors import InputError
from infoprune.user_code import imported


def register_criterion(
    name: str, function: Callable[..., Any], *, description: str = "", tap: Tap = "activation", paper: str = ""
) -> CriterionInfo:
    """Make a function a criterion that is chosen by name, in Python and on the command line.

    Args:
        name: The word that selects it.
        function: ``function(maps, labels)``, or ``function(maps)`` where labels do not matter: all ``(n, C, H, W)``
            feature maps of a coupled group (``(n, C, 1, D)`` where it has several layers) and ``(n,)`` class indices
            give ``(C,)`` scores, the larger the better the reason to keep the filter. Keyword-only arguments become
            options of the criterion.
        description: One line; by default the first of the function's docstring.
        tap: Where the feature maps are read.
        paper: Where it was published.

    Raises:
        InputError: The name is taken, or the function takes other arguments.

    Example:
        >>> import torch
        >>> from infoprune.criteria import base
        >>> info = register_criterion("energy", lambda maps: maps.square().mean((0, 2, 3)))
        >>> info.needs_labels
        False
        >>> del base._REGISTRY["energy"]
    """
    return register(_info(name, function, description=description, tap=tap, paper=paper))


def resolve(spec: str) -> CriterionInfo:
    """Return the criterion of that name, or make one of the function ``package.module:function``.

    Modules are looked for in the working directory too. A function may also be the name of a
    :class:`CriterionInfo`, for a criterion that streams.

    Raises:
        InputError: There is no such criterion, module or function.

    Example:
        >>> resolve("l1").name
        'l1'
        >>> resolve("statistics:mean").name
        'statistics:mean'
    """
    if ":" not in spec or any(info.name == spec for info in all_criteria()):
        return find(spec)
    found = imported(spec, "criterion")
    return found if isinstance(found, CriterionInfo) else _info(spec, found)


def _info(
    name: str, function: Callable[..., Any], *, description: str = "", tap: Tap = "activation", paper: str = ""
) -> CriterionInfo:
    if not callable(function):
        raise InputError(f"the criterion '{name}' must be a function of feature maps and labels, not {function!r}")
    positional = _positional(name, function)

    def scored(maps: Tensor, labels: Tensor, **options: Any) -> Importance:
        given = function(*(maps, labels)[:positional], **options)
        scores = _checked(name, given, maps.shape[1])
        # What the function sums in, and over how many terms, is not known: the precision of maps and scores says most.
        dtypes = {maps.dtype, *([given.dtype] if isinstance(given, Tensor) and given.is_floating_point() else [])}
        out_by = max(rounding(dtype, maps[:, 0].numel()) for dtype in dtypes) * scores.abs()
        first = scores[copies(variables(maps))]
        # A function may rank copies on purpose, the second below the first: only its rounding is taken out.
        return Importance(torch.where((scores - first).abs() <= out_by, first, scores), rounding=out_by)

    signature = inspect.signature(function)
    two = [inspect.Parameter(word, inspect.Parameter.POSITIONAL_OR_KEYWORD) for word in ("maps", "labels")]
    options = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    scored.__module__ = function.__module__
    scored.__signature__ = inspect.Signature([*two, *options])  # type: ignore[attr-defined]
    return CriterionInfo(
        name,
        holding(scored),
        description or (inspect.getdoc(function) or "a function of the user").splitlines()[0],
        paper=paper,
        tap=tap,
        needs_labels=positional == 2,
        holds_maps=True,
    )


def _positional(name: str, function: Callable[..., Any]) -> int:
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    options_without_default = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not positional or len(needed) > 2 or options_without_default:
        raise InputError(
            f"the criterion '{name}' must take (maps, labels) or (maps), not {inspect.signature(function)}: "
            "further arguments need a default"
        )
    return 2 if len(needed) == 2 or (len(positional) > 1 and positional[1].name == "labels") else 1


def _checked(name: str, given: Any, filters: int) -> Tensor:
    try:
        scores = torch.as_tensor(given).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the criterion '{name}' must give one number per filter, not {type(given).__name__}"
        ) from error
    if scores.shape != (filters,):
        raise InputError(
            f"the criterion '{name}' must give one number per filter, shape ({filters},), "
            f"but gave shape {tuple(scores.shape)}"
        )
    wrong = (~torch.isfinite(scores)).nonzero().flatten()
    if len(wrong):
        raise InputError(
            f"the criterion '{name}' gave {scores[wrong[0]]} for filter {int(wrong[0])}: give finite scores"
        )
    return scores
