"""Training of a small language model and its critic together. It knows no task: a `Course` brings that."""
