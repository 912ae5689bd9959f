"""What all figures share: how panels become a figure and its files, its style, and axes with plain ticks."""
