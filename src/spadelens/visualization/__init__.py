"""Images that make a unit of a network respond."""
