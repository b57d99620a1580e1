"""infoprune: smaller convolutional networks, filters chosen by what their feature maps know.

result = infoprune.prune(model, loader, criterion="cmi", budget=infoprune.Budget(macs=0.5))
infoprune.save(result.model, "small.safetensors")
"""

from infoprune.checkpoint import load, save
from infoprune.choice import Choice, LayerByLayer
from infoprune.criteria import all_criteria, register_criterion
from infoprune.cutoff import all_rules
from infoprune.errors import InputError
from infoprune.evaluation import Evaluation, evaluate
from infoprune.free import Freed, remove_free
from infoprune.network.verify import VerificationError
from infoprune.origin import Origin
from infoprune.pipeline import Result, apply, plan, prune, verify
from infoprune.plan import Budget, LayerDecision, Plan
from infoprune.plane import InformationPlane
from infoprune.repair import all_repairs, repair
from infoprune.reselection import reselect
from infoprune.rounds.loop import iterate
from infoprune.rounds.schedule import PruningSchedule
from infoprune.tune import Recipe, train
from infoprune.version import __version__

__all__ = [
    "Budget",
    "Choice",
    "Evaluation",
    "Freed",
    "InformationPlane",
    "InputError",
    "LayerByLayer",
    "LayerDecision",
    "Origin",
    "Plan",
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
    "remove_free",
    "repair",
    "reselect",
    "save",
    "train",
    "verify",
]
