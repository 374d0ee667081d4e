"""Tasks: what a state, a step, validity and an answer are."""
