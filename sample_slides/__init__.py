"""A small drawn well with known counts: its generator, its slides and its reference crops."""
