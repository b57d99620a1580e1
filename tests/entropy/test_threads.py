"""The thread settings of the caller come back, and results do not depend on them."""

import threading

import pytest
import torch

from infoprune.entropy import entropy, gram, greedy_order, pairwise_redundancy, relevance, squared_distances
from infoprune.entropy.precision import full_precision
from infoprune.entropy.threads import in_chunks, one_blas_thread
from infoprune.errors import InputError

from .strategies import class_labels, points


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_settings_come_back_after_a_call_and_after_an_exception(threads):
    threads(3)
    relevance(points(0, 20, variables=4), class_labels(0, 20))
    assert torch.get_num_threads() == 3
    with one_blas_thread() as outer, one_blas_thread() as inner:
        assert (outer, inner, torch.get_num_threads()) == (3, 3, 1)
    assert torch.get_num_threads() == 3

    def fails(part):
        assert torch.get_num_threads() == 1
        raise RuntimeError("in a worker")

    with pytest.raises(RuntimeError, match="in a worker"):
        in_chunks(fails, (10_000, 100, 100), torch.device("cpu"))
    assert torch.get_num_threads() == 3


def test_a_call_in_one_thread_leaves_the_setting_of_another(threads):
    threads(2)
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with one_blas_thread():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait(10)
    with one_blas_thread() as workers:
        assert workers == 2
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    leave.set()
    other.join()
    assert torch.get_num_threads() == 2


def test_results_do_not_depend_on_the_number_of_workers(threads):
    x, labels = points(1, 60, variables=400), class_labels(1, 60)
    found = []
    for count in (1, 3):
        threads(count)
        found.append((relevance(x, labels), relevance(x, labels, 2.0), greedy_order(x[:40], labels)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


@pytest.fixture(params=["highest", "high", "medium"])
def precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def test_results_do_not_depend_on_how_roughly_training_multiplies(precision):
    x, labels = points(3, 64, d=100, variables=40).float(), class_labels(3, 64)
    torch.set_float32_matmul_precision("highest")
    works = (
        lambda: relevance(x, labels, 2.0, width=10.0),
        lambda: pairwise_redundancy(x, width=10.0),
        lambda: squared_distances(x),
        lambda: torch.tensor(greedy_order(x, labels, method="pairs").order),
    )
    expected = [work() for work in works]
    torch.set_float32_matmul_precision(precision)
    assert all(torch.equal(work(), wanted) for work, wanted in zip(works, expected, strict=True))
    with pytest.raises(InputError):
        relevance(torch.full_like(x, torch.inf), labels)
    assert torch.get_float32_matmul_precision() == precision


def test_the_last_to_leave_brings_the_precision_back(precision):
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with full_precision():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    inside.wait(10)
    with full_precision():
        a = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(a @ a.T, (a.double() @ a.double().T).float(), atol=1e-2)
    leave.set()
    other.join()
    assert torch.get_float32_matmul_precision() == precision


def test_workers_keep_the_mode_of_the_caller(threads):
    threads(2)
    x = points(2, 50, variables=500)
    with torch.inference_mode():
        assert gram(x).is_inference()
    with torch.no_grad():
        assert not entropy(gram(x.requires_grad_(), width=1.0)).requires_grad
    assert entropy(gram(x, width=1.0)).requires_grad
