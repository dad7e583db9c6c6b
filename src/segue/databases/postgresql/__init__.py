"""PostgreSQL as a target: parsing, impact, sessions, inspection."""
