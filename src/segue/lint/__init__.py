"""Judging changes before they are made: which statement blocks whom for how long, and the safe form."""
