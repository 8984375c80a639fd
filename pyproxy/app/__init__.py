"""Composition roots: they put the parts together, and decide nothing."""
