"""Step generators: things that propose next steps. Each file knows one source of steps."""
