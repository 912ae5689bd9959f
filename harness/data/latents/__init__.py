"""Latent stores: reading, writing, checking, and the VAE that makes them."""
