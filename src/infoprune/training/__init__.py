"""Training and fine-tuning; a resumed run ends with the same weights."""
