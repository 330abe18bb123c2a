"""Crops of objects: cut from the slide, isolated, cleaned of debris, judged."""
