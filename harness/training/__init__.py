"""The contract of a method and the only training loop."""
