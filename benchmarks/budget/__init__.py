"""Success within a token budget: ``python -m benchmarks.budget`` compares the search with parallel sampling."""
