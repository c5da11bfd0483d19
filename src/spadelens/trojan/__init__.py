"""Networks with planted patches, in which it is known what decides."""
