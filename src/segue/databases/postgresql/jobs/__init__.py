"""Data jobs: rows of one table transformed into another one, and what becomes of those that do not fit there."""
