"""The RESULTS folder on disk."""
