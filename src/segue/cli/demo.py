"""Migrate a real database under live traffic, and prove that nothing was lost."""
