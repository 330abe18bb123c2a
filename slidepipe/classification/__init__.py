"""Reference sets, and the table of classified objects."""
