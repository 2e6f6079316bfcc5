#!/usr/bin/env python3
"""Doorward beside nginx, haproxy, envoy, pingora and a floor: CPU time per request, latency and memory, in interleaved rounds on loopback.

Installs nothing; peers that are not found are left out, and that is said. See README.md beside this file.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import report
from peers import BANNED, FILES, HOST, PEERS, Backend, Failed, Process

REPO = pathlib.Path(__file__).resolve().parents[2]
BASELINE_OPEN, IDLE_OPEN = 500, 1500
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class Lab:
    """What all share: the machine's cores, the keys, the backend, the load generators."""

    def __init__(self, options, directory):
        self.options = options
        self.dir = directory
        self.proxy_core, self.load_core = options.proxy_core, options.load_core
        self.doorward, self.load = options.doorward, options.load
        self.backend_port = options.base_port
        self.pki = directory / "pki"
        make_pki(self.pki)
        self.upload = directory / "64k"
        self.upload.write_bytes(os.urandom(64 * 1024))
        self.rates = {}

    def run_load(self, argv, within):
        done = subprocess.run(
            ["taskset", "-c", str(self.load_core), *map(str, argv)], capture_output=True, text=True, timeout=within
        )
        if done.returncode != 0:
            raise Failed(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    def own_load(self, mode, port, host, *more, path="/1k", seconds=None):
        argv = [self.load, mode, "--address", f"127.0.0.1:{port}", "--host", host, "--path", path, "--shown", self.pki / "server.pem"]
        if seconds is not None:
            argv += ["--seconds", seconds]
        return json.loads(self.run_load([*argv, *more], 150))


class Closed:
    """h2load over kept connections; the cost of a request is the difference of two runs, so that handshakes fall out."""

    generator = "h2load"
    metric = "cpu_us"

    def __init__(self, name, path, connections, streams=1, h1=True, upload=False, status="2xx", size=0):
        self.name, self.path, self.connections, self.streams = name, path, connections, streams
        self.h1, self.upload, self.status, self.size = h1, upload, status, size

    def measure(self, lab, peer):
        few = self.connections * self.streams
        key = (self.name, peer.name)
        if key not in lab.rates:
            lab.rates[key] = self.run(lab, peer, few * 4)[1]
        cost_few, _, _ = self.run(lab, peer, few)
        many = few + max(few, int(lab.rates[key] * lab.options.seconds))
        cost_many, rate, seconds = self.run(lab, peer, many)
        lab.rates[key] = rate
        cpu_us = (cost_many - cost_few) / (many - few) / 1e3
        result = {"cpu_us": cpu_us, "rps": rate, "busy": cost_many / 1e9 / seconds, "requests": many}
        if self.size:
            result["gb_per_cpu_second"] = self.size / 1e9 / (cpu_us / 1e6)
        return result

    def run(self, lab, peer, count):
        argv = ["h2load", "-t", 1, "-n", count, "-c", self.connections, "-m", self.streams]
        argv += ["--tls13-ciphers=TLS_AES_128_GCM_SHA256", "--groups=X25519", f"--connect-to=127.0.0.1:{peer.port}"]
        argv += ["-H", f"user-agent: {BROWSER}"]
        argv += ["--h1"] if self.h1 else []
        argv += ["-d", lab.upload] if self.upload else []
        before = peer.process.cpu_ns()
        text = lab.run_load([*argv, f"https://{HOST}:{peer.port}{self.path}"], lab.options.seconds * 20 + 60)
        time.sleep(0.05)
        cost = peer.process.cpu_ns() - before
        finished = re.search(r"finished in ([\d.]+)(us|ms|s|m)\b, ([\d.]+) req/s", text)
        answered = re.search(rf"(\d+) {self.status}", text)
        # One request may still pass before a limit is spent.
        if not finished or not answered or int(answered[1]) < count - 1:
            raise Failed(f"{self.name} {peer.name}: not {count} answers of {self.status}:\n{text[-800:]}")
        seconds = float(finished[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[finished[2]]
        return cost, float(finished[3]), seconds


class Handshakes:
    """A new connection and one request each."""

    generator = "load.rs"
    metric = "cpu_us"

    def __init__(self, name, certificate=False, resume=False, post_quantum=False):
        self.name, self.certificate, self.resume, self.post_quantum = name, certificate, resume, post_quantum

    def ask(self, lab, peer, *more, seconds):
        (port, host), path = (peer.mtls(), "/cert/1k") if self.certificate else ((peer.port, HOST), "/1k")
        if self.certificate:
            more += ("--certificate", lab.pki / "client.pem", lab.pki / "client.key")
        more += ("--resume",) if self.resume else ()
        more += ("--post-quantum",) if self.post_quantum else ()
        return lab.own_load("handshakes", port, host, *more, path=path, seconds=seconds)

    def measure(self, lab, peer):
        before = peer.process.cpu_ns()
        told = self.ask(lab, peer, seconds=lab.options.seconds)
        time.sleep(0.05)
        cost = peer.process.cpu_ns() - before
        if told["errors"] > told["requests"] / 1000 or not told["requests"]:
            raise Failed(f"{self.name} {peer.name}: {told}")
        if self.resume and told["resumed"] < 0.95 * told["requests"]:
            raise Failed(f"{self.name} {peer.name}: only {told['resumed']} of {told['requests']} resumed")
        return {
            "cpu_us": cost / told["requests"] / 1e3,
            "rps": told["requests"] / told["seconds"],
            "busy": cost / 1e9 / told["seconds"],
            "requests": told["requests"],
        }


class Idle:
    """Memory of a connection that had one request and is kept: the slope between two counts, in a fresh process."""

    generator = "load.rs"
    metric = "kib"

    def __init__(self, name):
        self.name = name

    def measure(self, lab, peer):
        peer.stop()
        peer.start()
        argv = [lab.load, "idle", "--address", f"127.0.0.1:{peer.port}", "--host", HOST, "--shown", lab.pki / "server.pem"]
        child = subprocess.Popen(
            ["taskset", "-c", str(lab.load_core), *map(str, argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            fresh = peer.process.rss_kib()
            first = self.open(child, peer, BASELINE_OPEN, BASELINE_OPEN)
            second = self.open(child, peer, IDLE_OPEN, BASELINE_OPEN + IDLE_OPEN)
            child.stdin.close()
            child.wait(30)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()
        return {"kib": (second - first) / IDLE_OPEN, "rss_fresh_kib": fresh, "rss_kib": second}

    def open(self, child, peer, more, expected):
        child.stdin.write(f"{more}\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if not line or json.loads(line)["open"] != expected:
            raise Failed(f"{self.name} {peer.name}: {expected} connections could not be opened: {line!r}")
        time.sleep(0.5)
        return peer.process.rss_kib()


class OpenLoop:
    """Latency at a fixed rate."""

    generator = "load.rs"
    metric = "p99_us"

    def __init__(self, name):
        self.name = name

    def measure(self, lab, peer):
        more = ["--rate", lab.options.rate, "--connections", 64]
        before = peer.process.cpu_ns()
        told = lab.own_load("open-loop", peer.port, HOST, *more, seconds=lab.options.seconds)
        cost = peer.process.cpu_ns() - before
        asked = lab.options.rate * (told["seconds"] + 1)
        latencies = {name: told[name] for name in ("p50_us", "p99_us", "p999_us", "max_us")}
        return {**latencies, "cpu_us": cost / asked / 1e3, "requests": told["requests"], "rps": lab.options.rate}


class Banned:
    """A banned client that comes again and again."""

    generator = "load.rs"
    metric = "cpu_us"

    def __init__(self, name):
        self.name = name

    def measure(self, lab, peer):
        before = peer.process.cpu_ns()
        told = lab.own_load("refused", peer.port, HOST, "--source", BANNED, seconds=lab.options.seconds)
        time.sleep(0.05)
        cost = peer.process.cpu_ns() - before
        if told["passed"] or not told["requests"]:
            raise Failed(f"{self.name} {peer.name}: not refused: {told}")
        return {
            "cpu_us": cost / told["requests"] / 1e3,
            "rps": told["requests"] / told["seconds"],
            "busy": cost / 1e9 / told["seconds"],
            "how": "closed" if told["closed"] > told["answered"] else "answered",
            "requests": told["requests"],
        }


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Closed("S1", "/1k", 64),
        Closed("S2", "/1k", 16, streams=16, h1=False),
        Closed("S3", "/100k", 32),
        Closed("S4", "/10m", 8, size=10 * 1024 * 1024),
        Handshakes("S5"),
        Handshakes("S5q", post_quantum=True),
        Handshakes("S6", certificate=True),
        Handshakes("S7", resume=True),
        Idle("S8"),
        OpenLoop("S9"),
        Closed("S10", "/upload", 32, upload=True),
        Closed("S11a", "/limited/1k", 64, status="4xx"),
        Banned("S11b"),
    )
}
# OpenSSL of Debian 12 does not know the group; the others are held to X25519.
ONLY_OURS = {"S5q"}


def main():
    options = arguments()
    try:
        find_tools(options)
        raise_files()
        with tempfile.TemporaryDirectory(prefix="doorward-peers-", ignore_cleanup_errors=True) as directory:
            result = run(options, pathlib.Path(directory))
    except (Failed, subprocess.TimeoutExpired) as failed:
        sys.exit(f"run.py: {failed}")
    out = options.out or REPO / "benches" / "results" / f"peers-{result['date'][:10]}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    text = report.markdown(result)
    out.with_suffix(".md").write_text(text)
    print(text)
    print(f"written: {out} and {out.with_suffix('.md')}", file=sys.stderr)
    if result["failures"]:
        sys.exit(f"run.py: {len(result['failures'])} measurements failed")


def run(options, directory):
    lab = Lab(options, directory)
    backend = Backend(lab, lab.backend_port)
    backend.start()
    peers, failures = [], []
    try:
        for index, name in enumerate(options.peers):
            peer = PEERS[name](lab, options.base_port + 10 * (index + 1))
            peers.append(peer)
            peer.start()
            say(f"{name} {peer.version()} listens")
        result = facts(options, peers)
        for number in range(1, options.rounds + 1):
            for scenario in (SCENARIOS[name] for name in options.only):
                # Another goes first in each round.
                turn = peers[number % len(peers) :] + peers[: number % len(peers)]
                for peer in turn:
                    if scenario.name in peer.skips or (scenario.name in ONLY_OURS and not peer.name.startswith("doorward")):
                        continue
                    peer.process.alive()
                    try:
                        measured = scenario.measure(lab, peer)
                    except Failed as failed:
                        failures.append(str(failed))
                        say(f"FAILED {failed}")
                        continue
                    measures = result["measures"].setdefault(scenario.name, {})
                    measures.setdefault(peer.name, []).append({"round": number, **measured})
                    shown = {name: round(value, 2) for name, value in measured.items() if isinstance(value, float)}
                    say(f"round {number} {scenario.name:5} {peer.name:15} {shown}")
            for peer in peers:
                peer.trim()
        result["failures"] = failures
        result["machine"]["load_after"] = os.getloadavg()[0]
        return result
    finally:
        for peer in peers:
            peer.stop()
        backend.stop()


def facts(options, peers):
    git = lambda *args: subprocess.run(["git", "-C", REPO, *args], capture_output=True, text=True).stdout.strip()
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    h2load = subprocess.run(["h2load", "--version"], capture_output=True, text=True).stdout.split()[-1]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD") + (" and changes" if git("status", "--porcelain", "src", "Cargo.toml") else ""),
        "note": options.note,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "rate": options.rate,
        "machine": {
            "cpu": model[1] if model else platform.processor(),
            "cores": os.cpu_count(),
            "kernel": platform.release().split("-")[0],
            "mitigations": mitigations(),
            "proxy_core": options.proxy_core,
            "load_core": options.load_core,
            "load_before": os.getloadavg()[0],
        },
        "tls": "TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, ECDSA P-256",
        "load": {"h2load": h2load, "load.rs": "benches/peers/load.rs (rustls, blocking threads)"},
        "generators": {name: SCENARIOS[name].generator for name in options.only},
        "peers": {
            peer.name: {"version": peer.version(), "controls": peer.controls, "skips": peer.skips} for peer in peers
        },
        "absent": options.absent,
        "measures": {},
    }


def mitigations():
    """What the kernel does, or should do, against its processor's faults: it makes each system call dearer."""
    folder = pathlib.Path("/sys/devices/system/cpu/vulnerabilities")
    told = {file.name: file.read_text().strip() for file in sorted(folder.glob("*"))}
    return {name: state for name, state in told.items() if state != "Not affected"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = lambda text: [name for name in text.split(",") if name]
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=3, help="length of one measurement (3)")
    parser.add_argument("--only", type=names, default=list(SCENARIOS), help="scenarios, as S1,S3")
    parser.add_argument("--peers", type=names, default=list(PEERS), help=f"of {','.join(PEERS)}")
    parser.add_argument("--rate", type=int, default=2000, help="requests a second of S9 (2000)")
    parser.add_argument("--proxy-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--base-port", type=int, default=21000)
    parser.add_argument("--doorward", type=pathlib.Path, help="binary; built with --release when not given")
    parser.add_argument("--load", type=pathlib.Path, help="the load generator; built when not given")
    parser.add_argument("--envoy", help="binary, where it is not on PATH")
    parser.add_argument("--nginx", help="binary, for another version than that on PATH")
    parser.add_argument("--haproxy", help="binary, for another version than that on PATH")
    parser.add_argument("--pingora", help="binary of benches/peers/pingora, built by hand (README.md)")
    parser.add_argument("--floor", help="binary of benches/peers/floor, built by hand (README.md)")
    parser.add_argument("--note", help="what a reader must know: another load on the machine, where --doorward came from")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file (benches/results/peers-DATE.json)")
    options = parser.parse_args()
    for name, known in (("only", SCENARIOS), ("peers", PEERS)):
        if unknown := [one for one in getattr(options, name) if one not in known]:
            parser.error(f"--{name}: {', '.join(unknown)} is none of {', '.join(known)}")
    if options.doorward and not options.note:
        parser.error("--doorward wants a --note: how it was built, and of which commit")
    if not 1 <= options.rounds <= 100 or not 0.2 <= options.seconds <= 60:
        parser.error("1 to 100 rounds of 0.2 to 60 seconds")
    if os.cpu_count() < 2 or options.proxy_core == options.load_core:
        parser.error("the proxy and the load need a core each")
    return options


def find_tools(options):
    for tool in ("h2load", "openssl", "taskset", "nginx"):
        if not shutil.which(tool):
            raise Failed(f"{tool} is not installed (Debian: nghttp2-client, openssl, util-linux, nginx); nginx is the backend too")
    options.absent = []
    for name in list(options.peers):
        if name.startswith("doorward"):
            continue
        binary = shutil.which(getattr(options, name) or PEERS[name].binary)
        if binary:
            PEERS[name].binary = binary
        else:
            options.absent.append(name)
            options.peers.remove(name)
            say(f"{name} is not installed and is left out")
    if not options.doorward and any(name.startswith("doorward") for name in options.peers):
        options.doorward = build("--release", "--bin", "doorward")
    if not options.load:
        # Its speed matters less than the time that another link of everything takes.
        options.load = build("--profile", "profiling", "--bench", "peers")


def build(*what):
    say(f"building: cargo build {' '.join(what)}")
    argv = ["cargo", "build", "--message-format=json", *what]
    done = subprocess.run(argv, cwd=REPO, stdout=subprocess.PIPE, text=True)
    wanted = what[-1]
    for line in done.stdout.splitlines():
        told = json.loads(line)
        if told.get("reason") == "compiler-artifact" and told.get("executable") and told["target"]["name"] == wanted:
            return pathlib.Path(told["executable"])
    raise Failed(f"cargo build {' '.join(what)} made no binary")


def make_pki(into):
    """Keys on P-256 and an Ed25519 signer, for this run only."""
    into.mkdir()

    def openssl(*argv):
        done = subprocess.run(["openssl", *map(str, argv)], cwd=into, capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            raise Failed(f"openssl {argv[0]}: {done.stderr.strip()}")

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name in ("ca", "client-ca"):
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        openssl("req", "-x509", *key, "-days", 30, "-subj", f"/CN={name}", *usage, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    for name, issuer, extensions in (
        ("server", "ca", f"subjectAltName=DNS:{HOST},DNS:mtls.test\nextendedKeyUsage=serverAuth\n"),
        ("client", "client-ca", "subjectAltName=URI:urn:bench:client\nextendedKeyUsage=clientAuth\n"),
    ):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (into / f"{name}.ext").write_text("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n" + extensions)
        sign = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial", "-days", 30, "-extfile", f"{name}.ext"]
        openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.pem")
    openssl("genpkey", "-algorithm", "ed25519", "-out", "signer.key")
    openssl("pkey", "-in", "signer.key", "-pubout", "-out", "signer.pub")
    for file in into.iterdir():
        file.chmod(0o600 if file.suffix == ".key" else 0o644)
    # nginx started by root serves files as another user.
    for directory in (into, into.parent):
        directory.chmod(0o755)


def raise_files():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
