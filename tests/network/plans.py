"""Plans drawn at random, for tests."""

import numpy as np

from infoprune.plan import LayerDecision, Plan


def random_plan(groups, seed):
    """Keep a random number of random units of each group, at least one; about a third of the groups stay whole."""
    random = np.random.default_rng(seed)
    decisions = {}
    for group in groups.groups:
        if random.random() < 0.3:
            continue
        units = random.choice(len(group.units), random.integers(1, len(group.units) + 1), replace=False)
        kept = sorted(i for unit in units for i in group.units[unit])
        decisions[group.name] = LayerDecision(group.name, group.filters, tuple(kept))
    return Plan(decisions)


def keeping(groups, **kept):
    """Return the plan that keeps the given filters, with ``__`` for the dots of the layers' names."""
    by_name = groups.by_name()
    names = {name.replace("__", "."): filters for name, filters in kept.items()}
    return Plan({name: LayerDecision(name, by_name[name].filters, tuple(some)) for name, some in names.items()})
