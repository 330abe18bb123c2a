"""Normalised embeddings."""

import numpy as np

from slidepipe.embedding.normalise import normalised


def test_normalised_rows_have_length_one():
    """The root keeps the sign; a row of zeros stays zero."""
    rows = normalised(np.array([[4.0, -9.0], [0.0, 0.0]]), root=True)
    np.testing.assert_allclose(rows, [[2 / np.sqrt(13), -3 / np.sqrt(13)], [0, 0]])
