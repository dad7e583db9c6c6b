"""Step kinds, one file each. A new file that exports STEP is found by looking; nothing else lists it."""
