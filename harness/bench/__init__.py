"""`harness bench`: training steps side by side in one process, interleaved, with the least time that each can take."""
