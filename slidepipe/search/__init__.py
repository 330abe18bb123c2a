"""Search for objects that are similar to an image or to another object."""
