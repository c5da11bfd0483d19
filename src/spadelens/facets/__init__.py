"""Facets of a class: groups of its samples whose traces use the same connections."""
