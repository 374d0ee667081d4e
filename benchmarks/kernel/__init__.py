"""Benchmarks of the critic kernel: ``python -m benchmarks.kernel`` times it against its floors and makes the report."""
