"""Any detector over a whole slide: blocks, halo, ownership, lost area."""
