"""Benchmarks of the step generator over a real language model: ``python -m benchmarks.generation``."""
