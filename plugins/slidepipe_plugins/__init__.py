"""The built-in plugins, a folder each."""
