"""What all figures share: the sheet, its style, scales, labels and lettering."""
