"""Scripts that measure speed, memory and accuracy, and the figures they gave with their machine."""
