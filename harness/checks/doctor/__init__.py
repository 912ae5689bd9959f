"""Checks of this machine and installation. None of them uses the network.

Checks import what they need inside their functions, so that a broken or missing package fails one check and not all.
"""
