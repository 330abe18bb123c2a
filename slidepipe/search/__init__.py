"""Search for the objects that look most like an image."""
