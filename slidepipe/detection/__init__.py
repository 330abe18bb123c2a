"""Run any detector over a whole slide: blocks, halo, ownership of objects, lost area."""
