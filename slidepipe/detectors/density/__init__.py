"""The built-in detector: optical density against the local background."""
