"""slidepipe: from a folder of palynology slide scans to fossil counts per genus and depth."""

__version__ = "0.1.0"
