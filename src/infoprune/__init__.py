"""infoprune: smaller convolutional networks, with filters chosen by the information in their feature maps.

result = infoprune.prune(model, loader, criterion="cmi", budget=infoprune.Budget(macs=0.5))
infoprune.save(result.model, "small.safetensors")

Every name is imported when it is first used, so that ``import infoprune.entropy`` loads torch and nothing else.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from infoprune.version import __version__

if TYPE_CHECKING:
    from infoprune.automatic.sensitivity import LayerSensitivity, sensitivity
    from infoprune.automatic.sweep import Point, sweep
    from infoprune.board import Board, bench
    from infoprune.criteria import all_criteria, register_criterion
    from infoprune.cutoff import all_rules, register_rule
    from infoprune.data.streams import sample_of
    from infoprune.errors import InputError
    from infoprune.iterative.iterate import iterate
    from infoprune.iterative.schedule import PruningSchedule
    from infoprune.measure.accuracy import Evaluation, evaluate
    from infoprune.measure.information_plane import InformationPlane
    from infoprune.network.origin import Origin
    from infoprune.network.verify import VerificationError
    from infoprune.options import LayerwiseOptions, PruneOptions, RepairOptions
    from infoprune.pipeline import Result, apply, plan, prune, verify
    from infoprune.plan import Budget, LayerDecision, Plan
    from infoprune.repair import all_repairs, repair
    from infoprune.repair.constant_filters import ConstantRemoval, remove_constant_filters
    from infoprune.runs.together import together
    from infoprune.selection.reselection import reselect
    from infoprune.storage.checkpoint import load, save
    from infoprune.training.recipe import Recipe
    from infoprune.training.train import train

__all__ = [
    "Board",
    "Budget",
    "ConstantRemoval",
    "Evaluation",
    "InformationPlane",
    "InputError",
    "LayerDecision",
    "LayerSensitivity",
    "LayerwiseOptions",
    "Origin",
    "Plan",
    "Point",
    "PruneOptions",
    "PruningSchedule",
    "Recipe",
    "RepairOptions",
    "Result",
    "VerificationError",
    "__version__",
    "all_criteria",
    "all_repairs",
    "all_rules",
    "apply",
    "bench",
    "evaluate",
    "iterate",
    "load",
    "plan",
    "prune",
    "register_criterion",
    "register_rule",
    "remove_constant_filters",
    "repair",
    "reselect",
    "sample_of",
    "save",
    "sensitivity",
    "sweep",
    "together",
    "train",
    "verify",
]

# Where each public name is; a test holds this against the imports above, which are for type checkers.
_WHERE = {
    "infoprune.automatic.sensitivity": ("LayerSensitivity", "sensitivity"),
    "infoprune.automatic.sweep": ("Point", "sweep"),
    "infoprune.board": ("Board", "bench"),
    "infoprune.criteria": ("all_criteria", "register_criterion"),
    "infoprune.cutoff": ("all_rules", "register_rule"),
    "infoprune.data.streams": ("sample_of",),
    "infoprune.errors": ("InputError",),
    "infoprune.iterative.iterate": ("iterate",),
    "infoprune.iterative.schedule": ("PruningSchedule",),
    "infoprune.measure.accuracy": ("Evaluation", "evaluate"),
    "infoprune.measure.information_plane": ("InformationPlane",),
    "infoprune.network.origin": ("Origin",),
    "infoprune.network.verify": ("VerificationError",),
    "infoprune.options": ("LayerwiseOptions", "PruneOptions", "RepairOptions"),
    "infoprune.pipeline": ("Result", "apply", "plan", "prune", "verify"),
    "infoprune.plan": ("Budget", "LayerDecision", "Plan"),
    "infoprune.repair": ("all_repairs", "repair"),
    "infoprune.repair.constant_filters": ("ConstantRemoval", "remove_constant_filters"),
    "infoprune.runs.together": ("together",),
    "infoprune.selection.reselection": ("reselect",),
    "infoprune.storage.checkpoint": ("load", "save"),
    "infoprune.training.recipe": ("Recipe",),
    "infoprune.training.train": ("train",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
_ROOMS = ("board", "callbacks", "criteria", "cutoff", "data", "depth", "entropy", "experiment", "hashing", "iterative",
          "measure", "network", "options", "pipeline", "regression", "report", "search", "selection", "storage",
          "training", "zoo")  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"infoprune.{name}")
    else:
        raise AttributeError(f"module 'infoprune' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


class _Package(ModuleType):
    """Keeps the functions ``plan`` and ``repair`` from being replaced by the modules of the same names."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
