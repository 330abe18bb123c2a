"""``slidepipe view``: a small server over a RESULTS folder, to look at specimens and correct their labels in a browser."""
