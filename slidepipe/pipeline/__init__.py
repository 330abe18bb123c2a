"""A run: plan, stages, engine, cluster, progress, tables."""
