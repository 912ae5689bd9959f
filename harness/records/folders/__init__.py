"""Folders of runs: listing, showing, removing and exporting them."""
