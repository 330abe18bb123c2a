"""The published palynomorph benchmark as the second tier of plugin validation: ``slidepipe benchmark NAME``."""
