"""From crops to embeddings."""
