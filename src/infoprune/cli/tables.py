"""What the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from infoprune.measure.record import MUCH

if TYPE_CHECKING:
    from infoprune.automatic.sensitivity import LayerSensitivity
    from infoprune.cutoff import Reach


def figures_table(figures: dict[str, Any], title: str) -> Table:
    """Return the figures of one network, with their units.

    Example:
        >>> figures_table({"accuracy": 91.5, "macs": 1000}, "small").row_count
        2
    """
    table = Table(title=title, show_header=False)
    forms = {"accuracy": "{:.2f} %", "top5": "{:.2f} %", "loss": "{:.4f} nats"}
    forms |= dict.fromkeys(("latency_ms", "latency_spread_ms"), "{:.2f}")
    for name, value in figures.items():
        if name == "metric":
            table.add_row(str(figures.get("metric_name", name)), f"{value:.4f}")
        elif value is not None and name not in ("metric_name", "higher_is_better"):
            table.add_row(name.replace("_", " "), forms.get(name, "{:,}").format(value))
    return table


def reach_table(found: Reach) -> Table:
    """Return what a budget can reach, and which layers limit it.

    Example:
        >>> from infoprune.cutoff.feasible import Potential, Reach
        >>> layer = Potential("conv1", 16, least=1, macs=0.2, parameters=0.1, held_macs=0.01, held_parameters=0.0)
        >>> reach_table(Reach(macs=0.2, parameters=0.1, groups=(layer,))).row_count
        1
    """
    table = Table(
        title=f"smallest network: down to {found.macs:.2%} of the MACs, {found.parameters:.2%} of the parameters"
    )
    for column in ("layer", "filters", "kept at least", "MACs it can save", "parameters", "limits"):
        table.add_column(column, justify="left" if column in ("layer", "limits") else "right", overflow="fold")
    for one in found.groups:
        binds = "yes" if one.held_macs > 0 or one.held_parameters > 0 else ""
        table.add_row(one.layer, str(one.filters), str(one.least), f"{one.macs:.2%}", f"{one.parameters:.2%}", binds)
    return table


def saturation_table(record: dict[str, Any]) -> Table | None:
    """Return how much of the labels' entropy each layer explains, and how far its order is resolved, if known.

    Example:
        >>> found = {"saturation": 0.9, "saturated_at": 2, "filters": 4}
        >>> saturation_table({"saturation": {"conv1": found}, "plan": {"conv1": [0, 2]}}).row_count
        1
    """
    if "saturation" not in record:
        return None
    table = Table(title="information with the labels")
    for column in ("layer", "filters", "kept", "share of H(Y)", "order resolved up to"):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    for layer, found in record["saturation"].items():
        kept = len(record["plan"][layer]) if layer in record["plan"] else found["filters"]
        resolved, filters = int(found["saturated_at"]), int(found["filters"])
        up_to = "all" if resolved >= filters else f"filter {resolved}"
        table.add_row(layer, str(filters), str(kept), f"{found['saturation']:.1%}", up_to)
    return table


def stability_table(record: dict[str, Any]) -> Table | None:
    """Return how similar the plans from several samples of images are, where requested.

    Example:
        >>> stability_table({"stability": {"conv1": {"kept": [8, 9], "overlap": 0.7}}}).row_count
        1
    """
    if "stability" not in record:
        return None
    table = Table(title="stability of the plan over samples of images")
    for column in ("layer", "kept", "overlap (Jaccard)", "Kendall tau of the orders"):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    for layer, found in record["stability"].items():
        tau = f"{found['kendall_tau']:.2f}" if "kendall_tau" in found else ""
        table.add_row(layer, ", ".join(map(str, found["kept"])), f"{found['overlap']:.1%}", tau)
    return table


def sensitivity_table(found: Sequence[LayerSensitivity]) -> Table:
    """Return the sensitivity of each layer at each ratio.

    Example:
        >>> from infoprune.automatic.sensitivity import LayerSensitivity
        >>> sensitivity_table([LayerSensitivity("conv1", 16, 0.5, 0.2, 0.01, 99.0)]).row_count
        1
    """
    classes = all(one.agreement is not None for one in found)
    unit = "nats" if classes else "relative"
    table = Table(title="each layer pruned alone and repaired, compared with the original on held-out images")
    measured = any(one.loss is not None for one in found)
    losses = ("loss (points)",) if measured else ()
    for column in ("layer", "filters", "ratio", "MACs saved", f"divergence ({unit})", "agreement", *losses):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    for one in found:
        agreement = "" if one.agreement is None else f"{one.agreement:.2f} %"
        loss = () if one.loss is None else (f"{one.loss:+.2f}",)
        row = (one.layer, str(one.filters), f"{one.ratio:g}", f"{one.macs:.2%}", f"{one.divergence:.4f}", agreement)
        table.add_row(*row, *loss)
    return table


def blocks_table(record: dict[str, Any]) -> Table:
    """Return the blocks of a network with their scores, and what removing some of them changed.

    Example:
        >>> figures = {"macs": 10, "parameters": 5, "accuracy": 90.0}
        >>> record = {"blocks": {"layer1.1": 0.2}, "removed": ["layer1.1"], "base": figures, "pruned": figures}
        >>> blocks_table(record).row_count
        1
    """
    base, pruned = record["base"], record["pruned"]
    share = pruned["macs"] / max(1, base["macs"])
    table = Table(
        title=f"accuracy {base['accuracy']:.2f} % before, {pruned['accuracy']:.2f} % after; {share:.1%} of the MACs, "
        f"{pruned['parameters'] / max(1, base['parameters']):.1%} of the parameters are left"
    )
    for column in ("block", "score", "removed"):
        table.add_column(column, justify="right" if column == "score" else "left", overflow="fold")
    for name, score in record["blocks"].items():
        table.add_row(name, f"{score:.4g}", "yes" if name in record["removed"] else "")
    return table


def sweep_table(record: dict[str, Any]) -> Table:
    """Return the original and the networks of a sweep, the largest first.

    Without labels there is no accuracy: what is shown is the share of images on which the same class is named, or, of
    other networks than classifiers, the change of the outputs as a share of their variance.

    Example:
        >>> whole = {"macs": 100, "parameters": 10, "accuracy": 99.0}
        >>> half = {"budget": 0.5, "macs": 50, "parameters": 4, "agreement": 98.0, "accuracy": 97.5}
        >>> sweep_table({"base": whole, "points": [half]}).row_count
        2
    """
    table, base = Table(title="one network per budget"), record["base"]
    classes = all(one["agreement"] is not None for one in record["points"])
    measured = [f"test {base['metric_name']}"] if "metric" in base else ["test accuracy"] if "accuracy" in base else []
    for column in ("budget", "MACs", "share", "parameters", "share", "agreement" if classes else "change", *measured):
        table.add_column(column, justify="right")
    for one in ({"budget": 1.0, "agreement": None, **base}, *record["points"]):
        macs, parameters = (f"{one[name] / base[name]:.2%}" for name in ("macs", "parameters"))
        agreement = "" if one["agreement"] is None else f"{one['agreement']:.2f} %"
        if not classes and "divergence" in one:
            agreement = f"{one['divergence']:.2%}"
        if "metric" in base:
            value, change = [f"{one['metric']:.4f}"], 100 * (one["metric"] - base["metric"])
            change = change if base["higher_is_better"] else -change
        elif "accuracy" in base:
            value, change = [f"{one['accuracy']:.2f} %"], one["accuracy"] - base["accuracy"]
        else:
            value, change = [], 0.0
        style = "bold red" if change <= -MUCH else None
        costs = (f"{one['macs']:,}", macs, f"{one['parameters']:,}", parameters)
        table.add_row(f"{one['budget']:g}", *costs, agreement, *value, style=style)
    return table


def plan_table(plan: dict[str, Any]) -> Table:
    """Return a plan, layer by layer.

    Example:
        >>> plan_table({"layers": {"conv1": {"filters": 4, "kept": [0, 2]}}}).row_count
        1
    """
    table = Table(title="plan")
    for column in ("layer", "filters", "kept", "coupled with", "why"):
        table.add_column(column, justify="right" if column in ("filters", "kept") else "left")
    for layer, decision in plan["layers"].items():
        coupled = ", ".join(decision.get("coupled", ()))
        table.add_row(layer, str(decision["filters"]), str(len(decision["kept"])), coupled, decision.get("reason", ""))
    return table


def export_table(record: dict[str, Any]) -> Table:
    """Return the exported files and how far their outputs are from PyTorch's.

    Example:
        >>> onnx = {"file": "small.onnx", "bytes": 1000, "max_abs_difference": 1e-6, "largest_output": 8.0}
        >>> export_table({"checkpoint": "small.safetensors", "architecture": "digits", "onnx": onnx}).row_count
        1
    """
    table = Table(title=f"{record['checkpoint']}: {record['architecture']}")
    for column in ("file", "bytes", "max abs difference", "largest output"):
        table.add_column(column, justify="left" if column == "file" else "right")
    for one in (record[kind] for kind in ("onnx", "program") if kind in record):
        difference, largest = f"{one['max_abs_difference']:.2g}", f"{one['largest_output']:.3g}"
        table.add_row(one["file"], f"{one['bytes']:,}", difference, largest)
    if "state" in record:
        table.add_row(record["state"]["file"], f"{record['state']['bytes']:,}", "0", "")
        table.add_row(record["state"]["widths"], "", "", "")
    return table


def latency_table(times: dict[str, dict[str, float]]) -> Table:
    """Return latencies in milliseconds, by network and runtime.

    Example:
        >>> latency_table({"base": {"PyTorch": 2.0}, "network": {"PyTorch": 1.0}}).row_count
        2
    """
    table = Table(title="latency of one image, one thread of the CPU (ms)")
    runtimes = list(times["network"])
    for column in ("", *runtimes):
        table.add_column(column, justify="right" if column else "left")
    for name, by_runtime in times.items():
        table.add_row(name, *(f"{by_runtime[runtime]:.2f}" for runtime in runtimes))
    return table
