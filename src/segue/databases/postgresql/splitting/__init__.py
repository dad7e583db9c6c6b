"""Splits: what crosses the lines between the parts of a database, and whether it still holds once they are apart."""
