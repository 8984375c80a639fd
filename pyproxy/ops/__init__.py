"""What a person or a probe can ask the running process: health, metrics, state."""
