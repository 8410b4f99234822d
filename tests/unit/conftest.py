"""Models of these tests are so small that a second thread only waits for the first."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("unit", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("unit")


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
