"""The schema of a database as a value, and the readers of files that describe one."""
