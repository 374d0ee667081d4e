"""Step generators: things that propose next steps. `torch_lm` drives a transformers causal language model."""
