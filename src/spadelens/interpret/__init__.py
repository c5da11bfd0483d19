"""A trace in, a picture out."""
