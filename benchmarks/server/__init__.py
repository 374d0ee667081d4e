"""Benchmarks of generators over servers."""
