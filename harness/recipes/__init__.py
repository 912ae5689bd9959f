"""A run as data: recipes, sweeps, settings and their validation."""
