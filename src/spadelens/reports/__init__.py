"""Reports as HTML, JSON and pictures."""
