"""infoprune.network."""
