"""Slides: open whole-slide scans of any format and read their pixels in level-0 coordinates."""
