"""Samples: which slides a well has, and the depth and type of the sample that each slide was made from."""
