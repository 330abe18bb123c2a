"""Conversion of results to formats that other programs read, one module per format."""
