"""SD-DiT (Zhu et al. 2024, arXiv:2403.17004v1), the paper under test."""
