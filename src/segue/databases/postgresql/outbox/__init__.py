"""A transactional outbox: events written in a service's own transactions, and relayed to other services' databases."""
