"""Review by a palynologist: draws, labels, corrected and reviewed counts, and reviewed objects as references."""
