"""Online schema changes of PostgreSQL tables, by a shadow table and a log of touched keys."""
