"""infoprune.criteria."""
