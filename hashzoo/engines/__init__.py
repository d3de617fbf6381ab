"""What runs a network on pictures: one file an engine."""
