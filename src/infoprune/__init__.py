"""infoprune: smaller convolutional networks, filters chosen by what their feature maps know.

result = infoprune.prune(model, loader, criterion="cmi", budget=infoprune.Budget(macs=0.5))
infoprune.save(result.model, "small.safetensors")
"""

from infoprune.criteria import all_criteria, register_criterion
from infoprune.cutoff import all_rules
from infoprune.errors import InputError
from infoprune.iterative.iterate import iterate
from infoprune.iterative.schedule import PruningSchedule
from infoprune.measure.accuracy import Evaluation, evaluate
from infoprune.measure.information_plane import InformationPlane
from infoprune.network.origin import Origin
from infoprune.network.verify import VerificationError
from infoprune.options import LayerwiseOptions, PruneOptions
from infoprune.pipeline import Result, apply, plan, prune, verify
from infoprune.plan import Budget, LayerDecision, Plan
from infoprune.repair import all_repairs, repair
from infoprune.repair.constant_filters import ConstantRemoval, remove_constant_filters
from infoprune.selection.reselection import reselect
from infoprune.storage.checkpoint import load, save
from infoprune.training.recipe import Recipe
from infoprune.training.train import train
from infoprune.version import __version__

__all__ = [
    "Budget",
    "ConstantRemoval",
    "Evaluation",
    "InformationPlane",
    "InputError",
    "LayerDecision",
    "LayerwiseOptions",
    "Origin",
    "Plan",
    "PruneOptions",
    "PruningSchedule",
    "Recipe",
    "Result",
    "VerificationError",
    "__version__",
    "all_criteria",
    "all_repairs",
    "all_rules",
    "apply",
    "evaluate",
    "iterate",
    "load",
    "plan",
    "prune",
    "register_criterion",
    "remove_constant_filters",
    "repair",
    "reselect",
    "save",
    "train",
    "verify",
]
