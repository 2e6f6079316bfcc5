#!/usr/bin/env python3
"""Tables and plots of a result of run.py.

    report.py RESULT.json                     the tables, on stdout
    report.py RESULT.json --benchmarks FILE   FILE's part between the markers, and plots beside RESULT.json
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

OURS = ("doorward", "doorward-least")
# Of these the better is what a target is of; the floor, which does less than a proxy does, never is.
ANCHORS = ("nginx", "haproxy")
BEGIN, END = "<!-- results: made by benches/peers/report.py -->", "<!-- end of results -->"

# What each scenario is; its figure (lower is better in every one); ours over the better of nginx and haproxy, at most.
SCENARIOS = {
    "S1": ("HTTP/1.1, 1 KB, 64 connections", "cpu_us", 0.85),
    "S2": ("HTTP/2, 1 KB, 16 connections of 16 streams", "cpu_us", 1.0),
    "S3": ("HTTP/1.1, 100 KB, 32 connections", "cpu_us", 0.85),
    "S4": ("HTTP/1.1, 10 MB, 8 connections", "cpu_us", 1.0),
    "S5": ("full handshake and a request", "cpu_us", 0.5),
    "S5q": ("the same with X25519MLKEM768", "cpu_us", None),
    "S6": ("the same with a client certificate", "cpu_us", 0.5),
    "S7": ("resumed handshake and a request", "cpu_us", 0.5),
    "S8": ("an idle connection", "kib", 1.0),
    "S9": ("p99 at a fixed rate", "p99_us", 1.0),
    "S10": ("HTTP/1.1, upload of 64 KB, 32 connections", "cpu_us", 0.85),
    "S11a": ("refused by a limit, keep-alive, 64 connections", "cpu_us", 0.75),
    "S11b": ("banned client, each time a connection", "cpu_us", 1.0),
}
# Who else is to be left behind, and in what.
BEYOND = {"S4": "envoy", "S5": "pingora", "S6": "pingora", "S7": "pingora"}
UNITS = {"cpu_us": "CPU µs", "kib": "KiB", "p99_us": "µs"}


def markdown(result):
    parts = [facts(result), "\n### CPU time, memory and latency (median of the rounds; lower is better)\n", figures(result), apart(result)]
    for ours in (name for name in OURS if name in result["peers"]):
        parts += [f"\n### {ours} over each peer, round by round: median (min to max)\n", ratios(result, ours)]
    parts += ["\n### Requests a second, and the share of the proxy's core that was busy\n", throughput(result)]
    if "S9" in result["measures"]:
        parts += [f"\n### Latency in µs at {result['rate']} requests a second, open loop\n", latency(result)]
    if "S8" in result["measures"]:
        parts += ["\n### Memory\n", memory(result)]
    if result.get("failures"):
        parts += ["\n### Not measured\n", "\n".join(f"- {failure.splitlines()[0]}" for failure in result["failures"]), "\n"]
    return "\n".join(parts)


def facts(result):
    machine = result["machine"]
    lines = [
        f"{result['date']}, commit {result['commit']}, {result['rounds']} interleaved rounds of {result['seconds']:g} s.",
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; proxy on core {machine['proxy_core']}, "
        f"load and backend on core {machine['load_core']}; load average {machine['load_before']:.1f} before, "
        f"{machine['load_after']:.1f} after.",
        f"{result['tls']}; backend: nginx over kept HTTP/1.1.",
        f"Load: h2load ({result['load']['h2load']}) and {result['load']['load.rs']}.",
        "",
        *[f"- **{name} {peer['version']}**: {peer['controls']}" for name, peer in result["peers"].items()],
    ]
    if faults := machine.get("mitigations"):
        lines.insert(2, f"Faults of the processor: {'; '.join(f'{name}: {state}' for name, state in faults.items())}.")
    if result.get("note"):
        lines.insert(1, f"**{result['note']}**")
    if result.get("absent"):
        lines.append(f"- not installed: {', '.join(result['absent'])}")
    return "\n".join(lines) + "\n"


def figures(result):
    peers = list(result["peers"])
    rows = []
    for name, measures in each(result):
        what, key, _ = SCENARIOS[name]
        row = [f"{name} {what}, {UNITS[key]}"]
        row += [number(median(measures[peer], key)) if peer in measures else "-" for peer in peers]
        rows.append(row)
        if name == "S4":
            speed = "gb_per_cpu_second"
            row = ["S4 as GB per CPU second (higher is better)"]
            rows.append(row + [f"{median(measures[peer], speed):.2f}" if peer in measures else "-" for peer in peers])
    return table(["", *peers], rows)


def apart(result):
    """Where the comparison would not be, or is not, of the same thing."""
    lines = [
        f"- {name} is not in {scenario}: {why}"
        for name, peer in result["peers"].items()
        for scenario, why in peer["skips"].items()
        if scenario in result["measures"]
    ]
    acts = {name: rounds[0]["how"] for name, rounds in result["measures"].get("S11b", {}).items()}
    if answering := [name for name, act in acts.items() if act == "answered" and "closed" in acts.values()]:
        lines.append(f"- S11b: {', '.join(answering)} shakes hands and answers; the others close before that")
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def ratios(result, ours):
    others = [name for name in result["peers"] if name not in OURS]
    beyond = any(other in result["measures"].get(name, {}) for name, other in BEYOND.items())
    rows = []
    for name, measures in each(result):
        _, key, target = SCENARIOS[name]
        if ours not in measures or not any(other in measures for other in others):
            continue
        row = [name]
        for other in others:
            values = by_round(measures, ours, other, key)
            row.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-")
        better = better_of(measures, key)
        if better and target:
            row += [f"{target:.2f} of {better}", verdict(by_round(measures, ours, better, key), target)]
        else:
            row += ["-", "-"]
        if beyond:
            values = by_round(measures, ours, BEYOND.get(name), key)
            row.append(f"{BEYOND[name]}: {verdict(values, 1.0)}" if values else "-")
        rows.append(row)
    return table(["", *others, "target", "", *(["and below"] if beyond else [])], rows)


def verdict(values, target):
    reached = statistics.median(values) / target
    over = (reached - 1) * 100
    return "met" if over <= 0 else f"missed by {over:.{0 if over >= 1 else 1}f} %"


def throughput(result):
    peers = list(result["peers"])
    rows = []
    for name, measures in each(result):
        if SCENARIOS[name][1] != "cpu_us":
            continue
        row = [name]
        for peer in peers:
            if peer in measures:
                row.append(f"{median(measures[peer], 'rps'):,.0f} ({median(measures[peer], 'busy') * 100:.0f} %)")
            else:
                row.append("-")
        rows.append(row)
    return table(["", *peers], rows)


def latency(result):
    measures = result["measures"]["S9"]
    rows = [
        [peer, *(number(median(measures[peer], key)) for key in ("p50_us", "p99_us", "p999_us", "max_us", "cpu_us"))]
        for peer in result["peers"]
        if peer in measures
    ]
    return table(["", "p50", "p99", "p99.9", "max", "CPU a request"], rows)


def memory(result):
    measures = result["measures"]["S8"]
    rows = [
        [
            peer,
            number(median(measures[peer], "rss_fresh_kib") / 1024),
            number(median(measures[peer], "rss_kib") / 1024),
            f"{median(measures[peer], 'kib'):.1f}",
        ]
        for peer in result["peers"]
        if peer in measures
    ]
    return table(["", "MiB after the start", "MiB with 2,000 connections", "KiB a connection"], rows)


def each(result):
    return [(name, result["measures"][name]) for name in SCENARIOS if name in result["measures"]]


def better_of(measures, key):
    """The better of nginx and haproxy, by their medians."""
    found = [name for name in ANCHORS if name in measures]
    return min(found, key=lambda name: median(measures[name], key)) if found else None


def by_round(measures, ours, other, key):
    theirs = {one["round"]: one[key] for one in measures.get(other, [])}
    return [one[key] / theirs[one["round"]] for one in measures.get(ours, []) if one["round"] in theirs]


def median(rounds, key):
    return statistics.median(one[key] for one in rounds)


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


# Validated for colour-blind readers on white: ours stand out, the peers recede.
COLOURS = {
    "doorward": "#2a78d6",
    "doorward-least": "#86b6ef",
    "nginx": "#52514e",
    "haproxy": "#898781",
    "envoy": "#c3c2b7",
    "pingora": "#a5875a",
    "floor": "#dedcd2",
}


def plot(result, names, title, path):
    """Horizontal bars, a group a scenario, each scaled to its worst peer, with the figure written at its end."""
    bar, gap, left, width, top = 17, 22, 290, 380, 58
    rows, y = [], top
    for name, measures in each(result):
        if name not in names:
            continue
        what, key, _ = SCENARIOS[name]
        shown = [(peer, median(measures[peer], key)) for peer in result["peers"] if peer in measures]
        most = max(value for _, value in shown)
        middle = y + len(shown) * bar / 2
        rows.append(f'<text x="12" y="{middle - 3:.0f}" class="name">{name} · {UNITS[key]}</text>')
        rows.append(f'<text x="12" y="{middle + 12:.0f}" class="what">{what}</text>')
        for peer, value in shown:
            length = max(2, value / most * width)
            rows.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" rx="2" fill="{COLOURS.get(peer, "#898781")}">'
                f"<title>{peer}: {number(value)}</title></rect>"
                f'<text x="{left + length + 6:.1f}" y="{y + 11}" class="value">{number(value)}</text>'
            )
            y += bar
        y += gap
    legend, x = [], 12
    for peer in result["peers"]:
        legend.append(f'<rect x="{x}" y="34" width="10" height="10" rx="2" fill="{COLOURS.get(peer, "#898781")}"/>')
        legend.append(f'<text x="{x + 15}" y="43" class="what">{peer}</text>')
        x += 30 + 7 * len(peer)
    style = (
        "text{font:12px system-ui,sans-serif;fill:#52514e}.title{font-weight:600;font-size:14px;fill:#0b0b0b}"
        ".name{font-weight:600;fill:#0b0b0b}.value{fill:#0b0b0b;font-variant-numeric:tabular-nums}"
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {y}" width="760" height="{y}" role="img">'
        f"<title>{title}</title><style>{style}</style>"
        f'<rect width="760" height="{y}" fill="#fcfcfb"/><text x="12" y="22" class="title">{title}</text>\n'
        + "\n".join(legend + rows)
        + "\n</svg>\n"
    )


PLOTS = {
    "requests": (("S1", "S2", "S3", "S10", "S11a"), "CPU time a request, less is better"),
    "bulk": (("S4",), "CPU time for 10 MB, less is better"),
    "connections": (("S5", "S6", "S7", "S11b"), "CPU time a connection with one request, less is better"),
    "idle-and-latency": (("S8", "S9"), "Memory of an idle connection, and p99, less is better"),
}


def benchmarks(result, source, into):
    """Replaces the part between the markers."""
    images = []
    for name, (scenarios, title) in PLOTS.items():
        if any(one in result["measures"] for one in scenarios):
            path = source.with_name(f"{source.stem}-{name}.svg")
            plot(result, scenarios, title, path)
            images.append(f"![{title}]({os.path.relpath(path, into.parent)})")
    text = into.read_text() if into.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    link = f"From [{source.name}]({os.path.relpath(source, into.parent)}).\n"
    into.write_text(f"{before}{BEGIN}\n\n{link}\n{markdown(result)}\n" + "\n\n".join(images) + f"\n\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("--benchmarks", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    if options.benchmarks:
        benchmarks(result, options.result.resolve(), options.benchmarks.resolve())
    else:
        sys.stdout.write(markdown(result))


if __name__ == "__main__":
    main()
