"""Checks that a user asks for: audit of records, doctor of the installation."""
