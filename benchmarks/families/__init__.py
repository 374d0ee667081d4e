"""Families other than the package's own: a small model and its critic trained from nothing, and what they gain."""
