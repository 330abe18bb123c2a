"""The built-in detectors, a folder each."""
