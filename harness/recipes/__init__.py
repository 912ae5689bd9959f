"""A run as data: recipes, settings and their validation."""
