"""What to do next, in sentences: from the figures of a run to what would make its result better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infoprune.measure.record import MUCH, Figures

# Points of accuracy from which a loss is worth a sentence.
WORTH_A_SENTENCE = 1.0
_ENOUGH_IMAGES = 1000
# An accuracy nearer to guessing than this means that something is wrong with the images.
_CHANCE, _OF_THE_REST = 2.0, 0.1


@dataclass(frozen=True)
class Spent:
    """What a run used.

    Args:
        images: Images that the repair saw.
        repair: Name of the repair, ``None`` where there was none.
        effort: ``"quick"``, ``"normal"`` or ``"thorough"``; ``None`` where the user chose criterion and repair.
        classes: Number of outputs of the network, ``None`` where it is no classifier.

    Example:
        >>> Spent(images=500, repair="least-squares", effort="quick", classes=10).images
        500
    """

    images: int
    repair: str | None
    effort: str | None
    classes: int | None = None


def is_chance(accuracy: float, classes: int | None) -> bool:
    """Return whether an accuracy in percent is hardly better than guessing among that many classes.

    That is at most twice the accuracy of guessing, and at most a tenth of the way from guessing to 100 %.

    Example:
        >>> is_chance(12.0, 10), is_chance(30.0, 10), is_chance(54.0, 2), is_chance(60.0, 2)
        (True, False, True, False)
    """
    if not classes or classes < 2:
        return False
    guessing = 100 / classes
    return accuracy <= min(_CHANCE * guessing, guessing + _OF_THE_REST * (100 - guessing))


def chance_warning(accuracy: float, what: str = "before pruning the accuracy") -> str:
    """Return what to do where an accuracy is hardly better than guessing.

    Example:
        >>> chance_warning(10.0).partition(":")[0]
        'Before pruning the accuracy is 10.00 %, hardly better than guessing'
    """
    return (
        f"{what[0].upper()}{what[1:]} is {accuracy:.2f} %, hardly better than guessing: check that the trained "
        "weights are loaded (--weights), how the images are normalised (--mean, --std) and the order of the classes."
    )


def advice(base: Figures, pruned: Figures, spent: Spent) -> tuple[str, ...]:
    """Return what to do next, the most useful sentence first; nothing where the result needs nothing.

    Args:
        base: Figures of the original network.
        pruned: Figures of the pruned one.
        spent: What the run used.

    Example:
        >>> before, after = Figures(100, 10, 1.0, accuracy=90.0), Figures(50, 5, 0.6, accuracy=86.0)
        >>> for sentence in advice(before, after, Spent(256, "least-squares", "normal", 10)):
        ...     print(sentence)
        The repair saw 256 images: 1,000 or more usually lose less (--calibration, --repair-images).
        More time may help: --effort thorough, or --minutes 20.
        With labels, fine-tune: infoprune tune.
    """
    if base.points is None or pruned.points is None:
        return _without_labels(pruned, spent)
    if base.accuracy is not None and is_chance(base.accuracy, spent.classes):
        return (chance_warning(base.accuracy),)
    return _on_loss(base.points - pruned.points, spent)


def _without_labels(pruned: Figures, spent: Spent) -> tuple[str, ...]:
    if pruned.agreement is None:
        return ()
    seen = ", which the repair has seen" if spent.repair is not None else ""
    measure = (
        f"Without labels the accuracy is not known: the figure is of calibration images{seen}. "
        "Labelled images (test=, or --data with a test part) measure it."
    )
    return (measure, *_on_loss(100 - pruned.agreement, spent))


def _on_loss(loss: float, spent: Spent) -> tuple[str, ...]:
    if loss < WORTH_A_SENTENCE:
        return ()
    found = []
    if spent.repair is None:
        found.append("Nothing was repaired: leave out --no-repair.")
    elif spent.images < _ENOUGH_IMAGES:
        found.append(
            f"The repair saw {spent.images:,} images: {_ENOUGH_IMAGES:,} or more usually lose less "
            "(--calibration, --repair-images)."
        )
    if spent.effort is None:
        found.append("Leave out --criterion and --repair: what is chosen for the network usually loses less.")
    elif spent.effort != "thorough":
        found.append("More time may help: --effort thorough, or --minutes 20.")
    found.append("With labels, fine-tune: infoprune tune.")
    if loss >= MUCH:
        found.append(f"{loss:.1f} points are much: a larger budget, or --max-loss, keeps the loss where you want it.")
    return tuple(found)


def latency_advice(times: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    """Return what to do where a pruned network gains no time in a runtime.

    Runtimes compute channels in blocks of 8 or 16: an odd number of filters can take longer than the next multiple.

    Args:
        times: Milliseconds of one image, by network (``base``, ``network``) and runtime.

    Example:
        >>> latency_advice({"base": {"onnxruntime": 4.0}, "network": {"onnxruntime": 3.0}})
        ()
        >>> print(*latency_advice({"base": {"onnxruntime": 4.7}, "network": {"onnxruntime": 9.4}}))
        The pruned network gains no time in onnxruntime (9.40 ms, before pruning 4.70 ms): prune with --multiple 8.
    """
    before, after = times.get("base", {}), times["network"]
    return tuple(
        f"The pruned network gains no time in {runtime} ({after[runtime]:.2f} ms, before pruning {spent:.2f} ms): "
        "prune with --multiple 8."
        for runtime, spent in before.items()
        if runtime in after and after[runtime] >= spent
    )
