"""From a file to the pixels that a network takes, where pictures are, and the page that shows them; Pillow and numpy alone."""
