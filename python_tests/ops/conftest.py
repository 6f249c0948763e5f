"""Assertions of the shared harness explain themselves as those of a test do."""

import pytest

pytest.register_assert_rewrite("contract")
