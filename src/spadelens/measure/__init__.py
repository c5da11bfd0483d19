"""A picture in, a score out."""
