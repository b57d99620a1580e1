"""infoprune.data."""
