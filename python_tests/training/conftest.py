"""Assertions of the shared toys explain themselves as those of a test do."""

import pytest

pytest.register_assert_rewrite("toys")
