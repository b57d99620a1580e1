"""The protocol of a board: what happens to every cell, one criterion and one sample of images at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from infoprune.board.options import AS_CUT, BoardOptions
from infoprune.board.parts import Part
from infoprune.board.rows import Board, Cell, Reference, Row, Scored
from infoprune.board.scoring import scored, seconds_of_one_pass, why
from infoprune.board.sharing import plan_of_cell
from infoprune.criteria.base import Importance
from infoprune.data.batches import Batches
from infoprune.data.given import as_batches
from infoprune.declarations.option_values import assembled, words_of
from infoprune.errors import InputError, unknown
from infoprune.measure.accuracy import evaluate
from infoprune.measure.figures import dead_filters, latencies
from infoprune.network import cost, surgery
from infoprune.network.coupled_groups import CoupledGroup
from infoprune.network.origin import note_cut
from infoprune.network.taps import Tap
from infoprune.options import PruneOptions
from infoprune.plan import Plan
from infoprune.progress import Progress, reported, silent
from infoprune.repair import repaired
from infoprune.selection.calibration import Calibration
from infoprune.selection.planning import Planned, choose_groups

Tune = Callable[[nn.Module, int], nn.Module]


@dataclass(frozen=True)
class Subject:
    """What a board is measured on.

    Args:
        model: The network; left as it is.
        sample: Returns the calibration images of a seed.
        test: Labelled images, which choose nothing.
        options: What is compared.
        tap: Returns where the maps of a criterion are read, ``None`` for where the criterion says.
        tune: Returns a fine-tuned copy of a network, from the network and the seed.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), [(torch.rand(16, 1, 8, 8), torch.arange(16) % 10)]
        >>> options = BoardOptions(criteria=("l1",), repairs=(), budgets=(0.5,), seeds=1)
        >>> subject = Subject(net, lambda seed: images, images, options)
        >>> subject.options.budgets
        (0.5,)
    """

    model: nn.Module
    sample: Callable[[int], Batches]
    test: Batches
    options: BoardOptions
    tap: Callable[[str], Tap | None] = lambda criterion: None
    tune: Tune | None = None


@dataclass(frozen=True)
class Sample:
    """One sample of calibration images, and what does not depend on the criterion.

    Args:
        calibration: The network and the images.
        groups: What may lose filters.
        dead: By layer, the filters that are constant on these images.
        one_pass: Processor seconds of one forward pass over them.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), [(torch.rand(16, 1, 8, 8), torch.arange(16) % 10)]
        >>> options = BoardOptions(criteria=("l1",), repairs=(), budgets=(0.5,), seeds=1)
        >>> subject = Subject(net, lambda seed: images, images, options)
        >>> [group.name for group in Sample.of(subject, 0).groups]
        ['features.0', 'features.3', 'features.7', 'features.10']
    """

    calibration: Calibration
    groups: tuple[CoupledGroup, ...]
    dead: Mapping[str, set[int]]
    one_pass: float

    @classmethod
    def of(cls, subject: Subject, seed: int, progress: Progress = silent) -> Sample:
        """Look at the sample of a seed."""
        batches = subject.sample(seed)
        calibration = Calibration.of(subject.model, batches)
        groups = _groups(subject, calibration)
        dead = dead_filters(subject.model, batches, groups, progress=progress)
        return cls(calibration, groups, dead, seconds_of_one_pass(subject.model, batches))


def _groups(subject: Subject, calibration: Calibration) -> tuple[CoupledGroup, ...]:
    which = PruneOptions(ratio=0.5, layers=subject.options.layers, skip=subject.options.skip)
    return choose_groups(subject.model, calibration.groups, which)


def bench(
    model: nn.Module,
    images: Any,
    test: Batches,
    *,
    progress: Progress | None = None,
    on_row: Callable[[Row], None] | None = None,
    **options: Any,
) -> Board:
    """Measure every criterion with every budget, repair and seed on one network under one protocol.

    A criterion that cannot run, for want of labels for example, has rows with the reason.

    Args:
        model: The trained network, returning ``(n, classes)`` logits; left as it is.
        images: Calibration images in any form that ``prune`` takes, with labels for criteria that need them. Each of
            n seeds has every n-th image, so that no two seeds share one.
        test: Labelled ``(images, labels)`` batches to measure accuracy on. They choose nothing.
        progress: Called in every stage; by default a bar is drawn on a terminal and in a notebook.
        on_row: Called with every row when it is measured.
        options: The fields of ``BoardOptions``: ``criteria=("cmi", "hrel"), budgets=(0.5,), seeds=1``. Fine-tuning
            needs training images: ``infoprune bench`` has them.

    Raises:
        InputError: An option is unknown or out of range, fine-tuning is asked for, or the images do not fit the
            network.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), torch.rand(40, 1, 8, 8)
        >>> test = [(torch.rand(20, 1, 8, 8), torch.arange(20) % 10)]
        >>> board = bench(net, images, test, criteria=("l2", "cmi"), repairs=("bn",), budgets=(0.5,), seeds=1)
        >>> len(board.rows), board.failures
        (16, {'cmi': "the criterion 'cmi' needs labels: give (images, labels) pairs"})
    """
    for word in options:
        if word not in words_of(BoardOptions):
            raise unknown("option of a board", word, words_of(BoardOptions))
    how = assembled(BoardOptions, options)
    if how.fine_tune_epochs:
        raise InputError("fine-tuning needs training images: run 'infoprune bench', or pass fine_tune_epochs=0")
    pool = as_batches(images)
    subject = Subject(model, lambda seed: Part(pool, how.seeds, seed), test, how)
    scores: list[Scored] = []
    rows: list[Row] = []
    with reported(progress) as shown:
        base = reference(subject, progress=shown)
        for one in measured(subject, how.units(), progress=shown):
            if isinstance(one, Scored):
                scores.append(one)
                continue
            rows.append(one)
            if on_row is not None:
                on_row(one)
    return Board(base, tuple(scores), tuple(rows))


def reference(subject: Subject, *, progress: Progress = silent) -> Reference:
    """Measure the network before pruning.

    Raises:
        InputError: The images do not fit the network, or a pattern of layers names nothing.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), [(torch.rand(16, 1, 8, 8), torch.arange(16) % 10)]
        >>> options = BoardOptions(criteria=("l1",), repairs=(), budgets=(0.5,), seeds=1)
        >>> subject = Subject(net, lambda seed: images, images, options)
        >>> reference(subject).macs
        1189504
    """
    model = subject.model
    calibration = Calibration.of(model, subject.sample(0))
    _groups(subject, calibration)
    found = _evaluated(subject, model, progress)
    time_of_one = latencies((model,), calibration.example)[0].milliseconds
    coupled = {group.name: len(group.producers) for group in calibration.groups.groups}
    base = calibration.costs.base
    assert found.accuracy is not None  # the board measures accuracy
    assert found.loss is not None
    return Reference(found.accuracy, found.loss, found.images, base.macs, base.parameters, time_of_one, coupled)


def measured(
    subject: Subject,
    units: Iterable[tuple[str, int]],
    *,
    known: Mapping[tuple[str, int], Scored] | None = None,
    done: Iterable[Cell] = (),
    progress: Progress = silent,
) -> Iterator[Scored | Row]:
    """Yield the scores and the rows of some criteria and seeds, each when it is there.

    Args:
        subject: What is measured.
        units: Pairs of a criterion and a seed. The sample of a seed is kept until the next seed comes.
        known: Scores that are there already, by unit; they are not yielded again.
        done: Cells whose rows are there already.
        progress: Called in every stage.

    Example:
        >>> import torch, infoprune
        >>> _ = torch.manual_seed(0)
        >>> net, images = infoprune.zoo.build("digits").eval(), [(torch.rand(16, 1, 8, 8), torch.arange(16) % 10)]
        >>> options = BoardOptions(criteria=("l1",), repairs=(), budgets=(0.5,), seeds=1)
        >>> subject = Subject(net, lambda seed: images, images, options)
        >>> [type(one).__name__ for one in measured(subject, [("l1", 0)])]
        ['Scored', 'Row', 'Row']
    """
    there, known = set(done), known or {}
    sample, of_seed = None, -1
    units = list(units)
    for number, (criterion, seed) in enumerate(units):
        cells = [cell for cell in subject.options.cells(criterion, seed) if cell not in there]
        progress("criteria and seeds", number, len(units))
        if not cells:
            continue
        if sample is None or seed != of_seed:
            sample, of_seed = Sample.of(subject, seed, progress), seed
        found = known.get((criterion, seed))
        if found is None or found.reason:
            found = scored(subject.model, sample.groups, sample.calibration.batches, criterion, seed=seed,
                           tap=subject.tap(criterion), one_pass=sample.one_pass, progress=progress)  # fmt: skip
            yield found
        if found.reason:
            yield from (Row(*cell, reason=found.reason) for cell in cells)
        else:
            yield from _rows(subject, sample, found.importances, cells, progress)


def _rows(
    subject: Subject, sample: Sample, importances: Mapping[str, Importance], cells: list[Cell], progress: Progress
) -> Iterator[Row]:
    for sharing, budget in dict.fromkeys((cell.sharing, cell.budget) for cell in cells):
        some = [cell for cell in cells if (cell.sharing, cell.budget) == (sharing, budget)]
        try:
            planned = plan_of_cell(sample.calibration, sample.groups, importances, subject.options, sharing, budget)
            cut = _cut(sample, planned)
        except Exception as error:  # a budget that this order cannot meet leaves the other cells as they are
            yield from (Row(*cell, reason=why(error)) for cell in some)
            continue
        yield from (_row_or_reason(subject, sample, planned, cut, cell, progress) for cell in some)


@dataclass(frozen=True)
class _Cut:
    model: nn.Module
    macs: int
    parameters: int
    latency_ms: float
    dead: int


def _cut(sample: Sample, planned: Planned) -> _Cut:
    known = sample.calibration
    small = surgery.apply(planned.plan, known.model, known.examples, groups=known.groups)
    small = note_cut(small, known.model, planned.plan)
    found = cost.count(small, known.example)
    time_of_one = latencies((small,), known.example)[0].milliseconds
    return _Cut(small, found.macs, found.parameters, time_of_one, _dead_kept(sample.dead, planned.plan))


def _dead_kept(dead: Mapping[str, set[int]], plan: Plan) -> int:
    return sum(len(some & set(plan.kept[name]) if name in plan.kept else some) for name, some in dead.items())


def _row_or_reason(
    subject: Subject, sample: Sample, planned: Planned, cut: _Cut, cell: Cell, progress: Progress
) -> Row:
    try:
        return _row(subject, sample, planned, cut, cell, progress)
    except Exception as error:  # a repair that fails leaves the other cells as they are
        return Row(*cell, reason=why(error))


def _row(subject: Subject, sample: Sample, planned: Planned, cut: _Cut, cell: Cell, progress: Progress) -> Row:
    known, small = sample.calibration, cut.model
    start = time.perf_counter()
    if cell.repair != AS_CUT:
        small = repaired(small, known.model, known.batches, planned.plan, known.groups, how=cell.repair,
                         progress=progress)  # fmt: skip
    seconds = time.perf_counter() - start
    found = _evaluated(subject, small, progress)
    row = Row(*cell, found.accuracy, None, found.loss, cut.macs, cut.parameters, cut.latency_ms, cut.dead, seconds)
    if subject.tune is None:
        return row
    return replace(row, tuned=_evaluated(subject, subject.tune(small, cell.seed), progress).accuracy)


@dataclass(frozen=True)
class _Accuracy:
    accuracy: float
    loss: float
    images: int


def _evaluated(subject: Subject, model: nn.Module, progress: Progress) -> _Accuracy:
    found = evaluate(model, subject.test, half=subject.options.bf16, progress=progress)
    assert found.accuracy is not None  # no metric was passed
    assert found.loss is not None
    return _Accuracy(found.accuracy, found.loss, found.images)
