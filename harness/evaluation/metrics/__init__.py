"""Distances, scores, precision and recall from features."""
