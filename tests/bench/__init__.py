"""Figures and ratios, printed. Nothing here asserts a time: machines differ, and are busy."""
