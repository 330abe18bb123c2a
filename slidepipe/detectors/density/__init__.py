"""The built-in detector: optical density relative to the local background."""
