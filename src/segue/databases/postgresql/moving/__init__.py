"""Moves tables to another database while the application writes to them: followed live, switched, taken back."""
