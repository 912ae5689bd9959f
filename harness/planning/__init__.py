"""What a run will take before it starts: arithmetic, bytes, memory, time."""
