"""Labels of reviewers: read, drawn for, and counted with."""
