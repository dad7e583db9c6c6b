"""The storefront: an e-commerce monolith with live traffic, to show and test migrations on."""
