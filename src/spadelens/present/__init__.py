"""Results out: pictures, reports, the command line."""
