"""Feature networks and the features that they extract."""
