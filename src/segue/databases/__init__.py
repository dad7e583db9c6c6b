"""Kinds of database server, a folder each, with the same file names in each."""
