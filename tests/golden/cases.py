"""Calls whose results are on record: small seeded networks, seeded images, every criterion, cut-off, budget and repair.

Nothing here imports the package, so that the same cases run under an older form of it.
"""

import torch
import torch.nn.functional as F
from torch import nn

DIGITS = "digits"
RESIDUAL = "residual"


def conv_bn(inputs, outputs, kernel=3, groups=1):
    norm = nn.BatchNorm2d(outputs)
    norm.running_mean.normal_(0, 0.3)
    norm.running_var.uniform_(0.3, 1)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, 0.3, 0.9)  # no dead filters: they are equal, and of equals the order is another matter
    convolution = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, norm, nn.ReLU())


class Residual(nn.Module):
    """A stem, two residual blocks, an expanded depthwise block and a linear head."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.inner1, self.outer1, self.norm1 = conv_bn(8, 10), nn.Conv2d(10, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner2, self.outer2, self.norm2 = conv_bn(8, 9), nn.Conv2d(9, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.expand, self.depthwise, self.project = conv_bn(8, 12, 1), conv_bn(12, 12, groups=12), conv_bn(12, 7, 1)
        self.fc = nn.Linear(7, 4)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(self.norm1(self.outer1(self.inner1(x))) + x)
        y = self.norm2(self.outer2(self.inner2(x)))
        y += x
        return self.fc(self.project(self.depthwise(self.expand(F.relu(y)))).mean((2, 3)))


class Digits(nn.Module):
    """Three convolutions for 8x8 digits."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv_bn(1, 8), conv_bn(8, 12), nn.MaxPool2d(2), conv_bn(12, 14))
        self.classifier = nn.Linear(14, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def network(name):
    torch.manual_seed(7)
    return (Digits() if name == DIGITS else Residual()).eval()


def batches(name, first=0, count=96):
    """Return ``count`` labelled images in batches of 32 and less."""
    if name == DIGITS:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.tensor(digits.images[first : first + count], dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target[first : first + count])
    else:
        generator = torch.Generator().manual_seed(100 + first)
        labels = torch.arange(count) % 4
        patterns = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
        images = patterns[labels] + torch.randn(count, 3, 8, 8, generator=generator)
    return list(zip(images.split(32), labels.split(32), strict=True))


CRITERIA = (
    *("bn-scale", "cmi", "hrel", "l1", "l2", "qsfm", "qsfm-psnr", "qsfm-ssim", "random", "reconstruction"),
    "variance",
)
REPAIRS = ("all", "alternating", "bn", "channels", "fold", "least-squares", "merge")
RULES = ("acceleration", "coordinates", "grid", "permutation", "scree", "tolerance", "xmeans")


def cases():
    """Return by name a network and the words of one call of ``prune``; a budget is a dictionary of its shares."""
    found = {f"{name}-ratio-{one}": (name, {"criterion": one, "ratio": 0.4})
             for one in CRITERIA for name in (DIGITS, RESIDUAL)}  # fmt: skip
    found |= {f"budget-{one}": (RESIDUAL, {"criterion": one, "budget": {"macs": 0.5}}) for one in CRITERIA[::2]}
    found |= {f"repair-{one}": (RESIDUAL, {"criterion": "l2", "ratio": 0.3, "repair": one}) for one in REPAIRS}
    found["repair-merge-qsfm"] = (RESIDUAL, {"criterion": "qsfm", "ratio": 0.3, "repair": "merge"})
    found |= {f"cutoff-{one}": (DIGITS, {"criterion": "cmi", "cutoff": one}) for one in RULES}
    further = {
        "budget-parameters": {"criterion": "l1", "budget": {"parameters": 0.6}},
        "budget-by": {"criterion": "hrel", "budget": {"macs": 0.5}, "budget_by": "reconstruction"},
        "reselect": {"criterion": "l2", "budget": {"macs": 0.5}, "reselect": True},
        "threshold": {"criterion": "variance", "threshold": 0.2},
        "keep": {"criterion": "l1", "keep": {"stem.0": 5, "inner1.0": 4}},
        "listed": {"criterion": "cmi", "keep": {"inner2.0": [0, 3, 5], "expand.0": [1, 2, 3, 4, 9]}},
        "limits": {"criterion": "l1", "ratio": 0.7, "multiple": 2, "keep_at_least": 4, "skip": ("inner1.*",)},
        "patterns": {"criterion": "l1", "ratio": 0.4, "layers": ("inner*", "project*")},
        "tap": {"criterion": "variance", "ratio": 0.4, "tap": "convolution"},
        "constant": {"criterion": "l1", "budget": {"macs": 0.6}, "remove_constant": True, "repair": "bn"},
        "compact": {"criterion": "cmi", "ratio": 0.4, "conditioning": "compact"},
        "full-backward": {"criterion": "cmi", "ratio": 0.4, "conditioning": "full", "direction": "backward"},
        "all-both": {"criterion": "cmi", "ratio": 0.4, "conditioning": "all", "direction": "both"},
        "tolerance": {"criterion": "cmi", "cutoff": "grid", "tolerance": 3.0, "candidate_repair": "bn"},
        "scored-grid": {"criterion": "l2", "cutoff": "grid", "tolerance": 5.0},
        "iterative": {"criterion": "cmi", "ratio": 0.3, "repair_between_layers": "bn"},
    }
    return found | {name: (RESIDUAL, words) for name, words in further.items()}


SCHEDULE = {
    "layers": [{"layers": "*", "pace": "20%+1", "limit": 3}],
    "retraining": {"epochs": 1, "learning_rate": 0.02, "precision": "32-true"},
    "rounds": 2,
    "repair": "bn",
    "criterion": "hrel",
    "augmentation": False,
}


def summary_of_rounds(found):
    """Return what is kept of a pruning in rounds of the digits network by ``SCHEDULE``."""
    rounds = [{name: rounded([value])[0] if isinstance(value, float) else value for name, value in one.items()
               if name != "seconds"} for one in found.record()["rounds"]]  # fmt: skip
    return {"rounds": rounds, "plan": found.record()["plan"], "weights": weights(found.model)}


def summary(result, record, words):
    """Return what is kept of a result: the record without times, scores, and the weights in a few numbers.

    Args:
        result: Of ``prune``.
        record: Its record.
        words: Of the call. Of a network that is repaired every tensor is on record, of one that is only cut all of
            them together, since its weights follow from the plan; scores where nothing else is asked than a ratio.
    """
    parts = ("base", "as_cut", "pruned") if words.get("criterion") == "l1" else ("as_cut", "pruned")
    scored = words.keys() == {"criterion", "ratio"}
    return {
        **{part: _without_times(record[part]) for part in parts if part in record},
        "plan": record["plan"],
        "left_alone": sorted(record["left_alone"]),
        "settings": {key: value for key, value in record["settings"].items() if key not in ("versions", "input_shape")},
        "scores": {layer: rounded(one.scores) for layer, one in result.plan.decisions.items()} if scored else {},
        "weights": weights(result.model) if "repair" in words else together(result.model),
    }


def weights(model):
    """Return for every tensor of a network its sum and its product with a fixed wave, in double precision."""
    doubles = {name: tensor.double() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    return {name: rounded((tensor.sum(), wave(tensor))) for name, tensor in doubles.items()}


def together(model):
    """Return the same of all tensors in a row."""
    tensors = [tensor.double().flatten() for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return {"all": rounded((torch.cat(tensors).sum(), wave(torch.cat(tensors))))}


def wave(tensor):
    return (tensor.flatten() * torch.arange(1, tensor.numel() + 1, dtype=torch.float64).sin()).sum()


def rounded(values):
    return [float(f"{float(value):.5g}") for value in values]


def _without_times(figures):
    left_out = ("latency_ms", "latency_spread_ms", "images")
    told = {name: value for name, value in figures.items() if name not in left_out and value is not None}
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in told.items()}
