"""From a network to images, from images to features, from features to metrics."""
