"""Checks of run folders against their own records."""
