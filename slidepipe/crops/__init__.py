"""Crops of objects: cut them from the slide, isolate the object, remove debris, measure quality."""
