"""Plan, rehearse, run, verify and undo database migrations while the application keeps working."""

__version__ = "0.1.0"
