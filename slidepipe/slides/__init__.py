"""Slides: what a scan is, opened by a reader, in level-0 pixels."""
