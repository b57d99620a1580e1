"""Everything that reads, follows, measures or cuts an ``nn.Module``, and chooses nothing."""
