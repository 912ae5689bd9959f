"""What this machine and installation can do: small checks, each of which ends in findings and how to mend them.

Nothing here reaches for the network. Checks import what they need inside their functions, so that a package that is
broken or missing spoils one finding and not the doctor.
"""
