"""Configurations in, records out."""
