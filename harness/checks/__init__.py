"""Checks of run folders against their own records (audit), and of the machine and its installation (doctor)."""
