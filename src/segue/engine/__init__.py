"""Runs plans: dependency order, leases, retries, pauses, and what to do after a death."""
