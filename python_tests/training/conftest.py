"""What tests of training share."""

from collections.abc import Iterator

import pytest
import torch

# Assertions of the shared toys explain themselves as those of a test do.
pytest.register_assert_rewrite("toys")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Toys are too small to share out; on a busy machine threads that wait for each other take many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
