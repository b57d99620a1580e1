"""What keeps a run whole: outputs that appear together, states to resume from, processes that work and end together."""
