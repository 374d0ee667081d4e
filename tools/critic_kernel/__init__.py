"""What the critic kernel is made with: its table and tuner, compiling ahead for GPUs that are not here, host time."""
