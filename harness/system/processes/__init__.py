"""Processes: starting them, their group, their signals, job scripts."""
