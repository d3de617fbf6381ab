"""What goes out with a model: its record, card, plots and tables, and the way to the Hub."""
