"""Tuning schedules, and the tables of the paper with their controls."""
