"""The words of the product as values: impact, lifecycles, quantities, plans. No input or output."""
