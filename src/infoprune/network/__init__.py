"""Reads, traces, measures and cuts an ``nn.Module``; filters are chosen elsewhere."""
