"""Runs carried out again from their records, and compared with them."""
