import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """The processes that are compared have one thread each: sums of several threads are formed in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
