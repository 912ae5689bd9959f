"""The machine: processes, signals, locks, files, errors, progress, precision."""
