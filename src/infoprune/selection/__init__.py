"""From importances to the filters that are kept: a plan, chosen again, compared over samples."""
