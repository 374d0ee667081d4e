"""Benchmarks of the search loop: what a search costs beside its model."""
