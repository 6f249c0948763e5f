"""Beside ``rates.py``, so that every benchmark can import it: pytest puts a conftest's folder on the path."""
