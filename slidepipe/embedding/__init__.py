"""From crops to embeddings: squares, orientations, batches, device."""
