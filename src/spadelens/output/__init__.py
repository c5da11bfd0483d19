"""Folders of results that appear whole or not at all."""
