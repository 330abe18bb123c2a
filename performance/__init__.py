"""What measures speed and quality: scripts, and the figures they gave with the machine they come from."""
