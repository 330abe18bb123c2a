"""Samples: which slides a well has, and which depth and type each was made from."""
