"""Sets of images to be measured, and how they are read and written."""
