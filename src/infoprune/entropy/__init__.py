"""infoprune.entropy."""
