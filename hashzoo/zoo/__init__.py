"""Where models are, and what their folders hold."""
