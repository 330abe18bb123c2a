"""Heads: from an embedding to a genus, or to "unknown"."""
