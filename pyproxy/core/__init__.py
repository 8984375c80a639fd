"""Decisions: values in, values out. No I/O and no logging; time and randomness are arguments."""
