#!/usr/bin/env python3
"""Instructions per request of doorward, every control on, by part: callgrind, as the difference of two request counts, over a
few connections.

    profile.py                             S1, S2, S5 and S11a; tables on stdout
    profile.py --only S1 --top 40          and the functions, lines and allocations behind them
    profile.py --write benches/profile.md  puts the tables there
    profile.py --check FILE                fails where a figure is more than 5 % above that in FILE (JSON), of the scenarios in it
    profile.py --check FILE --update       writes it anew

Instructions do not depend on the machine's speed or load; system calls count as none. What does depend on its make (copying
and cryptography choose their code by processor) is in the tables, and not in the figures that are checked.
"""

import argparse
import collections
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import peers
import run
from peers import Doorward, Failed

CONNECTIONS = 4
FEW, MANY = 100, 1100
HANDSHAKES_FEW, HANDSHAKES_MANY = 10, 60
TOLERANCE = 1.05
CHECKED = ["S1", "S11a"]
# Written anew for each make of processor: libc's copying, comparing and searching, and aws-lc.
BY_PROCESSOR = re.compile(r"^_*(mem|str|wmem)[a-z]*_|^mem(cpy|move|set|cmp|chr)|aws_lc|^_?(aes|vaes|gcm|sha|p256|ecp|bn_|x25519|curve25519)", re.I)
START_WITHIN = 120.0


class Costs:
    """Of one dump: instructions by (function, file, line), and how often whom calls whom."""

    def __init__(self):
        self.own = collections.Counter()
        self.under = collections.Counter()
        self.calls = collections.Counter()
        self.passed = collections.Counter()

    def read(self, path):
        names = {}

        def name(text):
            number, _, rest = text.partition(" ")
            if rest:
                names[space, number] = rest
            return names.get((space, number), number)

        file = function = callee = None
        line = 0
        calling = None
        for text in path.open():
            text = text.rstrip("\n")
            key, equals, rest = text.partition("=")
            if equals and key in ("fl", "fi", "fe", "fn", "cfi", "cfl", "cfn", "ob", "cob"):
                space = {"fn": "fn", "cfn": "fn", "ob": "ob", "cob": "ob"}.get(key, "fl")
                value = name(rest)
                if key in ("fl", "fi", "fe"):
                    file = value
                elif key == "fn":
                    function = plain(value)
                elif key == "cfn":
                    callee = plain(value)
            elif key == "calls":
                calling = int(rest.split()[0])
            elif text and (text[0].isdigit() or text[0] in "+-*"):
                at, _, cost = text.partition(" ")
                line = line if at == "*" else line + int(at) if at[0] in "+-" else int(at)
                if not cost:
                    continue
                # A call that has not come back counts as 0 calls, and its cost is still that of a call.
                if calling is not None:
                    self.calls[function, callee] += calling
                    if function != callee:
                        self.under[function] += int(cost)
                    self.passed[function, callee] += int(cost)
                    calling = None
                else:
                    self.own[function, file, line] += int(cost)
        return self

    def minus(self, other, by):
        less = Costs()
        for which in ("own", "under", "calls", "passed"):
            mine, theirs, into = getattr(self, which), getattr(other, which), getattr(less, which)
            for key in mine.keys() | theirs.keys():
                value = (mine[key] - theirs[key]) / by
                if abs(value) > 0.005:
                    into[key] = value
        return less

    def total(self):
        return sum(self.own.values())

    def portable(self):
        """Instructions that are the same on every processor."""
        return sum(cost for (function, _, _), cost in self.own.items() if not BY_PROCESSOR.search(function))

    def allocations(self):
        return sum(count for (_, callee), count in self.calls.items() if callee in ("malloc", "calloc", "realloc"))

    def by(self, part):
        found = collections.Counter()
        for (function, file, line), cost in self.own.items():
            found[part(function, file, line)] += cost
        return found

    def whole(self):
        """Instructions of a function and all that it calls."""
        found = self.by(lambda function, _file, _line: function)
        found.update(self.under)
        return found


PARTS = (
    ("allocator and copying", r"^(malloc|calloc|realloc|free|_int_|cfree|malloc_consolidate|unlink_chunk|__memcpy|__memmove|__memset|memcpy|__rdl|__rust)|mem(cpy|move|set|cmp)"),
    ("TLS: keys and records (aws-lc)", r"aws_lc|^(aes|gcm|AES|EVP|CRYPTO|bn_|ecp|EC_|SHA|sha|p256|fiat|x25519|BN_|bignum|curve25519|ECDSA|HMAC|vaes)"),
    ("TLS: protocol (rustls, webpki)", r"crate:(rustls|tokio-rustls|rustls-webpki|webpki|x509-parser|asn1-rs|der-parser|nom|untrusted)"),
    ("HTTP/2 (h2)", r"crate:(h2|atomic-waker|slab|fnv|indexmap|hashbrown)"),
    ("HTTP (hyper, http, httparse)", r"crate:(hyper|hyper-util|http|httparse|http-body|http-body-util|httpdate|want|itoa|bytes|form_urlencoded)"),
    ("runtime (tokio, mio)", r"crate:(tokio|mio|tokio-util|futures|socket2|parking_lot)"),
)


# What a request pays for each, with all that it calls.
CONTROLS = (
    ("bans of the address", "doorward::state::bans::BanTable::of_client"),
    ("host and canonical path", "doorward::gateway::inspect::target"),
    ("route", "doorward::policy::route::RouteTable::find"),
    ("limits, two of them", "doorward::gateway::Passage::charge"),
    ("facts: certificate, approval, automation", "doorward::gateway::inspect::Scene::facts"),
    ("decision", "doorward::policy::decide::<impl doorward::policy::Policy>::decide"),
    ("all checks up to the permit", "doorward::gateway::Passage::judge"),
    ("headers towards the application", "doorward::gateway::headers::towards_upstream"),
    ("headers towards the client", "doorward::gateway::headers::towards_client"),
    ("refusal", "doorward::gateway::respond::denial"),
    ("record: access line and metrics", "doorward::events::Events::request"),
)
BEGIN, END = "<!-- counted: made by benches/peers/profile.py -->", "<!-- end of what was counted -->"


def part_of(function, file, _line):
    """Where the code was written; what was inlined from the standard library goes to the function that it ended up in."""
    crate = crate_of(file) or crate_of_name(function)
    if crate == "doorward":
        inside = re.search(r"src/(\w+)(?:/(\w+))?", file) if crate_of(file) else re.search(r"doorward::(\w+)(?:::(\w+))?", function)
        if not inside:
            return "ours: other"
        room = inside[1] if inside[1] in ("events", "policy", "upstream", "tls", "config") or not inside[2] else f"{inside[1]}/{inside[2]}"
        return f"ours: {room}"
    for part, pattern in PARTS:
        if re.search(pattern, function) and not crate:
            return part
        if crate and re.search(pattern, f"crate:{crate}"):
            return part
    return f"other: {crate}" if crate else "libc and the rest"


def crate_of(file):
    if not file:
        return None
    if found := re.search(r"/registry/src/[^/]+/([A-Za-z0-9_-]+?)-\d", file):
        return found[1]
    if re.search(r"(^|/)src/(gateway|policy|state|events|upstream|tls|config|server|cli|admin|clock|net|main|lib)\b", file) and "/rustc/" not in file:
        return "doorward"
    return None


def crate_of_name(function):
    found = re.search(r"(?:^|[<& ])(?:dyn |mut )*([a-z][a-z0-9_]*)::", function)
    crate = found[1] if found else None
    if crate in ("core", "alloc", "std"):
        inner = [one for one in re.findall(r"\b([a-z][a-z0-9_]*)::", function) if one not in ("core", "alloc", "std")]
        known = [one for one in inner if one in ("doorward", "hyper", "h2", "tokio", "rustls", "http", "bytes", "tokio_rustls", "hyper_util", "mio")]
        crate = known[0] if known else None
    return crate.replace("_", "-") if crate else None


def plain(function):
    """Without the hash, and without callgrind's numbers of recursion."""
    return re.sub(r"(::h[0-9a-f]{16}|'\d+)\b.*$", "", function)


def measure(lab, name):
    """Costs of one request, in a process that has served some."""
    # A core of its own makes no difference to a count, but valgrind's threads take turns.
    peer = Doorward(lab, lab.options.base_port + 10)
    dumps = peer.dir / "callgrind.out"
    plain_argv = peer.argv()
    peer.argv = lambda: ["valgrind", "--tool=callgrind", f"--callgrind-out-file={dumps}", "--dump-line=yes", *plain_argv]
    peers.START_WITHIN = START_WITHIN
    peer.start()
    try:
        few, many = (HANDSHAKES_FEW, HANDSHAKES_MANY) if shakes_hands(name) else (FEW, MANY)
        ask(lab, peer, name, few)
        parts = []
        dump(peer)
        for count in (few, many):
            ask(lab, peer, name, count)
            time.sleep(0.5)
            parts.append(Costs().read(dump(peer)))
        return parts[1].minus(parts[0], many - few)
    finally:
        peer.stop()
        shutil.rmtree(peer.dir, ignore_errors=True)


def ask(lab, peer, name, count):
    scenario = run.SCENARIOS[name]
    if shakes_hands(name):
        scenario.ask(lab, peer, "--threads", 1, "--count", count, seconds=100)
        return
    narrow = run.Closed(name, scenario.path, CONNECTIONS, scenario.streams, scenario.h1, scenario.upload, scenario.status)
    narrow.run(lab, peer, count)


def shakes_hands(name):
    return isinstance(run.SCENARIOS[name], run.Handshakes)


def dump(peer):
    """Asks callgrind for what was counted since the last dump."""
    dumps = peer.dir / "callgrind.out"
    before = set(peer.dir.glob("callgrind.out.*"))
    subprocess.run(["callgrind_control", "-d", str(peer.process.child.pid)], capture_output=True, check=True, timeout=60)
    for _ in range(200):
        made = set(peer.dir.glob(f"{dumps.name}.*")) - before
        if made:
            time.sleep(0.5)
            return made.pop()
        time.sleep(0.05)
    raise Failed("callgrind wrote no dump")


def summary(counted):
    """Markdown: each scenario by part, then the controls in all of them."""
    text = []
    for name, costs in counted.items():
        total = costs.total()
        text.append(f"\n## {name}: {report_name(name)}: {total:,.0f} instructions a request\n")
        text.append(f"{costs.allocations():.0f} allocations a request.\n")
        parts = [(part, cost) for part, cost in costs.by(part_of).most_common() if cost > total / 100]
        text.append(run.report.table(["part", "instructions", "share"], [[part, f"{cost:,.0f}", f"{cost / total * 100:.1f} %"] for part, cost in parts]))
    text.append("\n## The controls\n\nInstructions a request, with all that they call.\n")
    whole = {name: costs.whole() for name, costs in counted.items()}
    rows = [[what, *(f"{of[function]:,.0f}" if of[function] > 1 else "-" for of in whole.values())] for what, function in CONTROLS]
    text.append(run.report.table(["control", *whole], rows))
    return "\n".join(text)


def write(path, text):
    before, rest = path.read_text().split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def show(name, costs, top):
    total = costs.total()
    print(f"\n## {name}: {report_name(name)}: {total:,.0f} instructions a request\n")
    print(f"{costs.allocations():.1f} allocations a request.\n")
    rows = [[part, f"{cost:,.0f}", f"{cost / total * 100:.1f} %"] for part, cost in costs.by(part_of).most_common() if cost > total / 1000]
    print(run.report.table(["part", "instructions", "share"], rows))
    if not top:
        return
    rows = [[f"`{function[:110]}`", f"{cost:,.0f}"] for function, cost in costs.by(lambda function, *_: function).most_common(top)]
    print(run.report.table(["function, by itself", "instructions"], rows))
    ours = [(function, cost) for function, cost in costs.whole().most_common() if "doorward::" in function]
    rows = [[f"`{function[:110]}`", f"{cost:,.0f}"] for function, cost in ours[:top]]
    print(run.report.table(["our function, with what it calls", "instructions"], rows))
    lines = costs.by(lambda _function, file, line: f"{file[file.find('src/') :]}:{line}" if crate_of(file) == "doorward" else None)
    lines.pop(None, None)
    print(run.report.table(["our line", "instructions"], [[where, f"{cost:,.0f}"] for where, cost in lines.most_common(top)]))
    for what, callees, counted, least in (
        ("who allocates", ("malloc", "calloc", "realloc"), costs.calls, 0.05),
        ("who copies: instructions of memcpy and memmove", None, costs.passed, 20),
    ):
        makers = collections.Counter()
        for (caller, callee), count in counted.items():
            if callee in callees if callees else re.search("mem(cpy|move)", callee or ""):
                makers[caller] += count
        rows = [[f"`{caller[:110]}`", f"{count:,.2f}"] for caller, count in makers.most_common(top) if count > least]
        print(run.report.table([what, "a request"], rows))


def report_name(name):
    return run.report.SCENARIOS[name][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), help="scenarios, S8, S9 and S11b excepted")
    parser.add_argument("--top", type=int, default=0)
    parser.add_argument("--write", type=pathlib.Path, metavar="PAGE")
    parser.add_argument("--check", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--update", action="store_true", help="write --check's FILE anew")
    parser.add_argument("--doorward", type=pathlib.Path, help="binary with symbols; built with --profile profiling when not given")
    parser.add_argument("--load", type=pathlib.Path, help="the load generator; built when not given")
    parser.add_argument("--base-port", type=int, default=21500)
    options = parser.parse_args()
    options.proxy_core, options.load_core, options.seconds = 1, 0, 5
    options.only = options.only or (CHECKED if options.check and not options.write else ["S1", "S2", "S5", "S11a"])
    figures, counted = {}, {}
    if unknown := [name for name in options.only if not isinstance(run.SCENARIOS.get(name), (run.Closed, run.Handshakes))]:
        parser.error(f"--only: {', '.join(unknown)} cannot be counted")
    try:
        for tool in ("valgrind", "callgrind_control", "h2load", "openssl", "nginx"):
            if not shutil.which(tool):
                raise Failed(f"{tool} is not installed")
        # In this order: with the bench comes a binary that has the features of the tests.
        if any(map(shakes_hands, options.only)):
            options.load = options.load or run.build("--profile", "profiling", "--bench", "peers")
        options.doorward = options.doorward or run.build("--profile", "profiling", "--bin", "doorward")
        with tempfile.TemporaryDirectory(prefix="doorward-profile-", ignore_cleanup_errors=True) as directory:
            lab = run.Lab(options, pathlib.Path(directory))
            backend = peers.Backend(lab, lab.backend_port)
            backend.start()
            try:
                for name in options.only:
                    costs = counted[name] = measure(lab, name)
                    figures[name] = {"instructions": round(costs.portable()), "allocations": round(costs.allocations(), 1)}
                    show(name, costs, options.top)
            finally:
                backend.stop()
    except (Failed, subprocess.SubprocessError) as failed:
        sys.exit(f"profile.py: {failed}")
    if options.write:
        write(options.write, summary(counted))
    if options.check and options.update:
        kept = json.loads(options.check.read_text()) if options.check.exists() else {}
        options.check.write_text(json.dumps(kept | {name: figures[name] for name in CHECKED if name in figures}, indent=1) + "\n")
    elif options.check:
        judge(figures, json.loads(options.check.read_text()))


def judge(figures, committed):
    """Fails above the committed figures; below them it asks for new ones, so that what was won is kept."""
    worse = []
    print()
    for name, counted in figures.items():
        for what, figure in counted.items():
            if name not in committed:
                continue
            limit = committed[name][what]
            print(f"{name}: {figure:,} {what} a request, committed {limit:,} ({figure / limit - 1:+.1%})")
            if figure > limit * TOLERANCE:
                worse.append(f"{name} {what}")
            elif figure * TOLERANCE < limit:
                print(f"{name}: `--update` keeps what was won")
    if worse:
        sys.exit(f"profile.py: more than 5 % above the committed figure: {', '.join(worse)}; `--update` where it is on purpose")


if __name__ == "__main__":
    main()
