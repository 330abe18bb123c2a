"""A small well with known truth: its generator, its slides and its reference crops."""
