"""The workflow of an online schema change, whatever the database."""
