"""A metric by name, by function or by torchmetrics is what it is by definition; what cannot be measured is refused."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch import nn
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import MulticlassJaccardIndex

from infoprune.errors import InputError
from infoprune.measure.accuracy import evaluate
from infoprune.measure.metric import Quality, metric_names


class Echo(nn.Module):
    """Returns the pixels of the first channel as logits."""

    def forward(self, images):
        return images[:, 0].flatten(1)


class Several(Echo):
    """Returns a dict, as segmentation networks do."""

    def forward(self, images):
        return {"aux": None, "out": super().forward(images)}


def batches(sizes=(7, 20, 3), classes=6):
    torch.manual_seed(0)
    found = []
    for n in sizes:
        labels = torch.randint(0, classes, (n,))
        logits = torch.randn(n, classes) + 2 * nn.functional.one_hot(labels, classes)
        found.append((logits.view(n, 1, 2, 3), labels))
    return found


def joined(data):
    logits = torch.cat([images.flatten(1) for images, _ in data])
    return logits, torch.cat([labels for _, labels in data]).numpy()


REFERENCES = {
    "accuracy": lambda logits, labels: reference.accuracy_score(labels, logits.argmax(1)),
    "top-5": lambda logits, labels: reference.top_k_accuracy_score(labels, logits.numpy(), k=5, labels=range(6)),
    "balanced-accuracy": lambda logits, labels: reference.balanced_accuracy_score(labels, logits.argmax(1)),
    "f1": lambda logits, labels: reference.f1_score(labels, logits.argmax(1), average="macro"),
    "miou": lambda logits, labels: reference.jaccard_score(labels, logits.argmax(1), average="macro"),
    "auroc": lambda logits, labels: reference.roc_auc_score(
        labels, logits.softmax(1).numpy(), multi_class="ovr", average="macro"
    ),
    "kappa": lambda logits, labels: reference.cohen_kappa_score(labels, logits.argmax(1)),
}


@pytest.mark.parametrize("name", metric_names())
def test_a_named_metric_is_that_of_scikit_learn_over_all_batches_together(name):
    data = batches()
    wanted = REFERENCES[name](*joined(data))
    assert evaluate(Echo(), data, metric=name).metric == pytest.approx(wanted, abs=1e-5)
    assert evaluate(Several(), data, metric=name, output="out").metric == pytest.approx(wanted, abs=1e-5)


def test_a_function_is_averaged_over_the_images_whatever_the_batches():
    data = batches()
    whole = [tuple(torch.cat(parts) for parts in zip(*data, strict=True))]

    def share_of_even(outputs, targets):
        return (outputs.argmax(1) % 2 == targets % 2).double().mean()

    logits, labels = joined(data)
    wanted = np.mean(logits.argmax(1).numpy() % 2 == labels % 2)
    assert evaluate(Echo(), data, metric=share_of_even).metric == pytest.approx(wanted)
    assert evaluate(Echo(), whole, metric=share_of_even).metric == pytest.approx(wanted)


def test_a_metric_of_torchmetrics_is_left_as_it_was():
    data = batches()
    mine = MulticlassJaccardIndex(6)
    mine.update(torch.eye(6), torch.arange(6))
    before = mine.compute()
    found = evaluate(Echo(), data, metric=mine)
    assert found.metric == pytest.approx(REFERENCES["miou"](*joined(data)), abs=1e-5)
    assert (found.accuracy, found.loss, found.images) == (None, None, 30)
    mine._computed = None
    assert mine.compute() == before


def test_the_first_of_several_figures_is_measured():
    several = MetricCollection({"first": MulticlassJaccardIndex(6), "second": MulticlassJaccardIndex(6, average=None)})
    data = batches()
    assert evaluate(Echo(), data, metric=several).metric == evaluate(Echo(), data, metric="miou").metric


def test_accuracy_of_a_part_of_the_output_is_that_of_the_part():
    data = batches()
    part = evaluate(Several(), data, output=lambda found: found["out"])
    whole = evaluate(Echo(), data)
    assert (part.accuracy, part.top5, part.loss) == (whole.accuracy, whole.top5, whole.loss)
    half = evaluate(Several(), data, output=lambda found: found["out"], half=True)
    assert half.loss == pytest.approx(whole.loss, rel=2e-2)


def test_less_is_better_where_the_metric_says_so():
    error = MeanSquaredError()
    assert Quality(error).points(0.5) == -50
    assert Quality("f1").points(0.5) == 50

    def distance(outputs, targets):
        return 0.0

    assert Quality(distance).points(0.5) == 50
    distance.higher_is_better = False
    assert Quality(distance).points(0.5) == -50
    assert Quality(distance).name == "distance"


def fails(outputs, targets):
    raise KeyError("nothing")


@pytest.mark.parametrize(
    ("model", "words", "sentence"),
    [
        (Echo(), {"metric": "f2"}, "unknown metric 'f2': did you mean 'f1'"),
        (Echo(), {"metric": 3}, "metric is a name, a function of outputs and targets"),
        (Echo(), {"metric": MeanSquaredError}, "metric is a name, a function"),
        (Echo(), {"output": 3}, "output is the name of a part of what the network returns, or a function of it"),
        (
            Echo(),
            {"output": "out"},
            "the network returns no part 'out', but a tensor of shape .7, 6.: name",
        ),
        (Several(), {"output": "main"}, "the network returns no part 'main', but the parts aux, out"),
        (Echo(), {"metric": fails}, "the metric 'fails' fails: KeyError"),
        (Echo(), {"metric": lambda outputs, targets: outputs}, "must be one number, not a tensor of shape"),
        (Echo(), {"metric": lambda outputs, targets: float("nan")}, "it must be a finite number"),
        (Several(), {"metric": "f1"}, "needs .n, classes, .... outputs, not 'dict'"),
        (Several(), {}, "choose the logits by 'output'"),
        (Several(), {"output": lambda found: found["logits"]}, "fails on what the network returns, 'dict': KeyError"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, words, sentence):
    with pytest.raises(InputError, match=sentence):
        evaluate(model, batches(), **words)


def test_a_metric_needs_targets():
    with pytest.raises(InputError, match="each batch must be .images, targets."):
        evaluate(Echo(), [torch.zeros(2, 1, 2, 3)], metric=lambda outputs, targets: 0.0)
