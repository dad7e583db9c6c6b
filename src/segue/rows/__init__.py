"""The parts that work on rows shares: chunks that fit a time, workers that walk a key."""
