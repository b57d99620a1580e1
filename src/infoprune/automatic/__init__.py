"""What one line without options does: ways to prune are compared on held-out images, and the nearest is taken."""
