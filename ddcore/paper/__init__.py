"""Judging and publishing: the paper's claims against the records, figures, widgets, notebooks."""
