"""The built-in detectors, one folder per detector."""
