#!/usr/bin/env python3
"""What Doorward costs as it grows: keys, cores, and a reload of many sites under load, on loopback.

    scale.py                          measures, and writes benches/results/scale-DATE.json and its tables beside it
    scale.py --benchmarks FILE        and FILE's part between the markers
    scale.py --from RESULT.json ...   the tables of a result that is there

Builds the programs that are not named. See README.md beside this file.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from peers import HOST, Backend, Doorward, Failed
from report import number, table
from run import REPO, Closed, Handshakes, Lab, build, facts, raise_files, say

BEGIN, END = "<!-- scale: made by benches/peers/scale.py -->", "<!-- end of scale -->"
SITES = 1000
# Of an open loop.
LATENCIES = ("requests", "p50_us", "p99_us", "p999_us", "max_us")
MIDDLE = {"requests": sum, "max_us": max}
# A command that changes nothing and answers little, and the seconds from one command to the next.
ASKED = ("bans", "list")
BEAT = 0.5
# What a shared lock would look like, in the kernel or out of it.
LOCK = re.compile(r"futex|mutex|rwlock|rwsem|spin_lock|qspinlock|lock_slow|lock_contended|osq_lock", re.I)
SHOWN_FROM = 1.0


WHY_IT_GROWS = """\
Time of one act, its key chosen at random among all; memory of a key, what lies between keys included. Whatever is looked up is found
by hash: what the most cost over the few is memory that no cache holds, and each act takes one such access or several. The last line
is what one costs here, in the standard map.

A limit holds 262,144 keys and 16,384 wider prefixes, the guesses 262,144 clients and as many accounts, then 65,536 groups of each; whoever
comes when they are full shares with his neighbours, in memory that no longer grows. The signature of a token is checked anew, at the price of its first time,
where more than 16,384 are in use. A certificate's memory includes its site's TLS state.
"""


class Grown(Doorward):
    """Every control on, with as many workers and sites more as are asked for."""

    def __init__(self, lab, base_port, name, cores, workers, sites=""):
        self.name, self.cores, self.workers, self.sites = name, cores, workers, sites
        super().__init__(lab, base_port)

    def write(self):
        super().write()
        text = (self.dir / "doorward.toml").read_text().replace("workers = 1\n", f"workers = {self.workers}\n")
        self.text = f"{text}\n{self.sites}"
        self.rewrite(1)

    def rewrite(self, version):
        """Whole at once: the gateway watches the file."""
        new = self.dir / "new.toml"
        new.write_text(f'policy = {{ id = "scale", version = "{version}" }}\n{self.text}')
        new.replace(self.dir / "doorward.toml")

    def start(self):
        self.lab.proxy_core = self.cores
        super().start()

    def shares(self):
        """CPU time of each worker so far."""
        times = {}
        for task in pathlib.Path(f"/proc/{self.process.child.pid}/task").glob("*"):
            name = (task / "comm").read_text().strip()
            if re.fullmatch(r"doorward-\d+", name):
                times[name] = int((task / "schedstat").read_text().split()[0])
        return times


def workers(lab, peer):
    """Requests on kept connections and new connections: cost, and how evenly the workers share them; then a profile."""
    rounds = [Closed("S1", "/1k", 64).measure(lab, peer) for _ in range(lab.options.rounds)]
    kept = balance(peer, lambda: Closed("S1", "/1k", 64).measure(lab, peer))
    fresh = {}
    connections = balance(peer, lambda: fresh.update(Handshakes("S5").measure(lab, peer)))
    return {
        "workers": peer.workers,
        "cores": peer.cores,
        "rps": statistics.median(one["rps"] for one in rounds),
        "cpu_us": statistics.median(one["cpu_us"] for one in rounds),
        "handshake_us": fresh["cpu_us"],
        "handshakes": fresh["requests"],
        "least_of_kept": kept,
        "least_of_connections": connections,
        "symbols": locks(lab, peer),
    }


def balance(peer, act):
    """The share of the CPU time that the least busy worker had."""
    before = peer.shares()
    act()
    spent = [after - before[name] for name, after in peer.shares().items()]
    return min(spent) / sum(spent)


def locks(lab, peer):
    """Symbols that look like locks, in percent of the samples under load; None without perf."""
    if not shutil.which("perf"):
        return None
    data = peer.dir / "perf.data"
    seconds = lab.options.seconds
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", 999, "-p", peer.process.child.pid, "-o", data, "sleep", seconds]
    load = threading.Thread(target=lambda: Closed("S1", "/1k", 64).run(lab, peer, int(lab.rates["S1", peer.name] * seconds * 1.5)))
    load.start()
    done = subprocess.run([*map(str, record)], capture_output=True, text=True)
    load.join()
    if done.returncode != 0:
        say(f"perf record failed: {done.stderr.strip()[-300:]}")
        return None
    argv = ["perf", "report", "-i", data, "--stdio", "--no-children", "--sort", "symbol", "-g", "none", "--percent-limit", "0.01"]
    text = subprocess.run([*map(str, argv)], capture_output=True, text=True).stdout
    found = re.findall(r"^\s*([\d.]+)%\s+\[[.k]\]\s+(\S.*?)(?:\s{2,}.*)?$", text, re.M)
    return {symbol: float(percent) for percent, symbol in found if LOCK.search(symbol)}


def reload(lab, peer):
    """The same open loop with nothing beside it, with commands that change nothing, and with reloads; by turns, the median of each
    figure. The generator fails where one request is lost or not answered 200."""
    loads, times, cpu = {"calm": [], "asked": [], "reloading": []}, {"asked": [], "reload": []}, []
    for _ in range(lab.options.rounds):
        loads["calm"].append(lab.own_load("open-loop", peer.port, HOST, "--rate", lab.options.rate, seconds=lab.options.seconds * 3))
        loads["asked"].append(beside(lab, peer, ASKED, times["asked"]))
        before = peer.process.cpu_seconds()
        loads["reloading"].append(beside(lab, peer, ["reload"], times["reload"]))
        cpu.append(peer.process.cpu_seconds() - before)
    return {
        "sites": SITES,
        "rate": lab.options.rate,
        **{name: {key: MIDDLE.get(key, statistics.median)([one[key] for one in told]) for key in LATENCIES} for name, told in loads.items()},
        "rounds": {name: [one["p99_us"] for one in told] for name, told in loads.items()},
        "reloads": len(times["reload"]) / lab.options.rounds,
        "asks": len(times["asked"]) / lab.options.rounds,
        "seconds": statistics.median(times["reload"]),
        "longest": max(times["reload"]),
        "asked_seconds": statistics.median(times["asked"]),
        "cpu_seconds": statistics.median(cpu),
        "rss_mib": peer.process.rss_kib() / 1024,
    }


def beside(lab, peer, command, times):
    """The open loop, and beside it a command at every beat; each reload of a config that was written anew, which none other may be:
    the gateway watches it."""
    made, over, failed = len(times), threading.Event(), []

    def again():
        next_at = time.monotonic() + BEAT
        while not over.wait(max(0, next_at - time.monotonic())):
            next_at += BEAT
            if command == ["reload"]:
                peer.rewrite(len(times) + 2)
            started = time.monotonic()
            argv = [peer.binary, "--config", peer.dir / "doorward.toml", *command]
            try:
                subprocess.run(["taskset", "-c", peer.cores, *map(str, argv)], capture_output=True, text=True, timeout=60, check=True)
            except (OSError, subprocess.SubprocessError) as error:
                return failed.append(f"{error}: {(getattr(error, 'stderr', None) or '')[-500:]}")
            times.append(time.monotonic() - started)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        told = lab.own_load("open-loop", peer.port, HOST, "--rate", lab.options.rate, seconds=lab.options.seconds * 3)
    finally:
        over.set()
        thread.join()
    if failed or len(times) == made:
        raise Failed(f"doorward {' '.join(command)}: {failed[0] if failed else 'none came through'}")
    return told


def measure(options, directory):
    lab = Lab(options, directory)
    result = facts(options, [])
    result["keys"] = lab.run_load([options.scale], 1200)
    say(result["keys"])
    backend = Backend(lab, lab.backend_port)
    backend.start()
    try:
        sites = lab.run_load([options.scale, "sites", SITES, lab.pki], 120)
        port = options.base_port
        result["workers"] = []
        for count, cores in ((1, "1"), (2, "0,1")):
            port += 10
            with running(Grown(lab, port, f"workers-{count}", cores, count)) as peer:
                result["workers"].append(workers(lab, peer))
                say(json.dumps(result["workers"][-1]))
        with running(Grown(lab, port + 10, "sites", "0,1", 2, sites)) as peer:
            result["reload"] = reload(lab, peer)
            say(json.dumps(result["reload"]))
    finally:
        backend.stop()
    result["machine"]["load_after"] = os.getloadavg()[0]
    return result


class running:
    """A peer from its start to its end."""

    def __init__(self, peer):
        self.peer = peer

    def __enter__(self):
        self.peer.start()
        return self.peer

    def __exit__(self, *_):
        self.peer.stop()


def markdown(result):
    machine = result["machine"]
    lines = [
        f"{result['date']}, commit {result['commit']}; {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; "
        f"load average {machine['load_before']:.1f} before, {machine['load_after']:.1f} after. `cargo bench --bench scale` makes "
        "the first table, `benches/peers/scale.py` all of it.",
    ]
    if result.get("note"):
        lines.append(f"**{result['note']}**")
    lines += ["\n### Keys\n", result["keys"], WHY_IT_GROWS]
    lines += ["### Workers\n", cores(result["workers"])]
    lines += ["Least busy: the share of the CPU time that the worker with less to do had; even would be 50 %.", ""]
    lines += [lock_lines(result["workers"])]
    lines += [f"### Reload of {result['reload']['sites']:,} sites, each with its certificate, under load\n", reloads(result["reload"])]
    return "\n".join(lines) + "\n"


def cores(rows):
    percent = lambda share, row, of="": "-" if row["workers"] == 1 else f"{share * 100:.0f} %{of}"
    head = ["workers", "requests a second", "CPU µs a request", "CPU µs a new connection", "least busy, 64 kept", "least busy, new ones"]
    return table(
        head,
        [
            [
                f"{row['workers']} on core {row['cores'].replace(',', ' and ')}",
                number(row["rps"]),
                number(row["cpu_us"]),
                number(row["handshake_us"]),
                percent(row["least_of_kept"], row),
                percent(row["least_of_connections"], row, f" of {row['handshakes']:,}"),
            ]
            for row in rows
        ],
    )


def lock_lines(rows):
    if any(row["symbols"] is None for row in rows):
        return "Locks: perf is not installed, so nobody looked.\n"
    seen = {symbol: [row["symbols"].get(symbol, 0.0) for row in rows] for row in rows for symbol in row["symbols"]}
    shown = {symbol: shares for symbol, shares in seen.items() if max(shares) >= SHOWN_FROM}
    sums = " and ".join(f"{sum(row['symbols'].values()):.1f} %" for row in rows)
    told = "; ".join(f"`{symbol}` {' and '.join(f'{share:.1f} %' for share in shares)}" for symbol, shares in shown.items())
    return f"Symbols of locks under load, with one worker and with two: {sums} of the samples in all; from {SHOWN_FROM:g} % on: {told or 'none'}.\n"


def reloads(row):
    latency = lambda name, one: [name, f"{one['requests']:,.0f}", *(number(one[key]) for key in LATENCIES[1:])]
    head = [f"{row['rate']:,} requests a second", "requests, none lost", "p50 µs", "p99 µs", "p99.9 µs", "max µs"]
    rows = [
        ("nothing beside it", "calm"),
        (f"`doorward bans list`, {row['asks']:.0f} times", "asked"),
        (f"`doorward reload`, {row['reloads']:.0f} times", "reloading"),
    ]
    text = table(head, [latency(name, row[key]) for name, key in rows])
    p99s = "; ".join(f"{name} {', '.join(number(p99) for p99 in row['rounds'][key])}" for name, key in rows)
    disturbed = row["reloading"]["p99_us"] > 1.5 * row["asked"]["p99_us"]
    return text + (
        f"\nBy turns, {len(row['rounds']['calm'])} rounds: their medians, the sum of the requests and the longest wait of all. "
        f"p99 of each round: {p99s}. `doorward reload` took {row['seconds'] * 1e3:,.0f} ms in the median, {row['longest'] * 1e3:,.0f} ms "
        f"at most, `doorward bans list` {row['asked_seconds'] * 1e3:,.0f} ms; {row['rss_mib']:,.0f} MiB resident after the last reload. "
        "Workers, load generator and the commands themselves share both cores here, and wait for their turn."
        + (" The p99 is not left undisturbed by that." if disturbed else "")
    )


def into(file, result, source):
    """Replaces the part between the markers, or begins it."""
    text = file.read_text()
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## Scale\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    link = f"From [{source.name}]({os.path.relpath(source, file.parent)}).\n"
    file.write_text(f"{before}{BEGIN}\n\n{link}\n{markdown(result)}\n{END}{rest.split(END)[1]}")


def main():
    options = arguments()
    if options.result:
        source = options.result.resolve()
        result = json.loads(source.read_text())
    else:
        try:
            prepare(options)
            with tempfile.TemporaryDirectory(prefix="doorward-scale-", ignore_cleanup_errors=True) as directory:
                result = measure(options, pathlib.Path(directory))
        except (Failed, subprocess.TimeoutExpired) as failed:
            sys.exit(f"scale.py: {failed}")
        source = REPO / "benches" / "results" / f"scale-{result['date'][:10]}.json"
        source.write_text(json.dumps(result, indent=1) + "\n")
    if options.benchmarks:
        into(options.benchmarks.resolve(), result, source)
    print(markdown(result))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement (3)")
    parser.add_argument("--seconds", type=float, default=2, help="length of one measurement (2)")
    parser.add_argument("--rate", type=int, default=1000, help="requests a second beside the reloads (1000)")
    parser.add_argument("--base-port", type=int, default=22000)
    parser.add_argument("--doorward", type=pathlib.Path, help="binary with symbols; built when not given")
    parser.add_argument("--load", type=pathlib.Path, help="benches/peers/load.rs; built when not given")
    parser.add_argument("--scale", type=pathlib.Path, help="benches/scale.rs; built when not given")
    parser.add_argument("--note", help="what a reader must know")
    parser.add_argument("--from", dest="result", type=pathlib.Path, metavar="RESULT.json")
    parser.add_argument("--benchmarks", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()
    options.proxy_core, options.load_core, options.only, options.absent = "1", 0, [], []
    return options


def prepare(options):
    for tool in ("h2load", "openssl", "taskset", "nginx"):
        if not shutil.which(tool):
            raise Failed(f"{tool} is not installed (Debian: nghttp2-client, openssl, util-linux, nginx); nginx is the backend")
    raise_files()
    # One profile for all, with the symbols that perf needs.
    for name, what in (("doorward", "--bin"), ("load", "--bench"), ("scale", "--bench")):
        if not getattr(options, name):
            setattr(options, name, build("--profile", "profiling", what, {"load": "peers"}.get(name, name)))


if __name__ == "__main__":
    main()
