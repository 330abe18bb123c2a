"""From embeddings to classified objects: the reference set, fitted heads, usable objects, the table of objects."""
