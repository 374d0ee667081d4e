"""Benchmarks of the search trees: pytest-benchmark keeps the clock, ``python -m benchmarks.tree`` makes the report."""
