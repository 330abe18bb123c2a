"""The published palynomorph benchmark, for comparing backbones: `slidepipe benchmark NAME`."""
