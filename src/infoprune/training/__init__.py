"""Training and fine-tuning that resume to the same weights."""
