"""infoprune.cutoff."""
