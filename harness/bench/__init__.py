"""`harness bench`: training steps side by side in one process, interleaved, with the floor each one stands on."""
