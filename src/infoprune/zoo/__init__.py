"""infoprune.zoo."""
