"""The proxies under test: one class a peer, each writes its own config and says what it checks.

All end TLS 1.3 with the same P-256 certificate, one thread, HTTP/1.1 and HTTP/2 by ALPN, and forward over kept HTTP/1.1
connections to the same backend with X-Forwarded-For added; the floor alone copies bytes. The peers run as fast as we know to configure them: no access log,
no control but what a scenario is about.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

HOST = "portal.test"
# Comes to be refused; every proxy knows it as banned.
BANNED = "127.0.0.9"
LIVE_BANS = 1000
START_WITHIN = 20.0
STOP_WITHIN = 10.0
FILES = 20_000


class Failed(Exception):
    """A run cannot go on; the message says why."""


class Process:
    """A child and what it costs; ended by its own pid."""

    def __init__(self, name, argv, core, log, env=None):
        self.name = name
        self.log = log
        with open(log, "ab") as output:
            self.child = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                # Its own group for the keyboard, not a session of its own: the scheduler weighs those against each other as one.
                process_group=0,
            )

    def stop(self):
        if self.child.poll() is not None:
            return
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.child.wait(STOP_WITHIN)

    def alive(self):
        if self.child.poll() is not None:
            tail = pathlib.Path(self.log).read_text(errors="replace")[-2000:]
            raise Failed(f"{self.name} ended with {self.child.returncode}:\n{tail}")

    def pids(self):
        """The child and all that it forked (nginx's worker)."""
        found, left = [], [self.child.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
                try:
                    left.extend(int(child) for child in (task / "children").read_text().split())
                except OSError:
                    pass
        return found

    def cpu_ns(self):
        """Time on a processor of all threads, to the nanosecond; one that ended is forgotten, which proxies' do not while they serve."""
        total = 0
        for pid in self.pids():
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
                try:
                    total += int((task / "schedstat").read_text().split()[0])
                except OSError:
                    pass
        return total

    def cpu_seconds(self):
        """The same of threads that ended too, to some ten milliseconds (proc(5): utime and stime)."""
        ticks = 0
        for pid in self.pids():
            try:
                ticks += sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
            except OSError:
                pass
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_kib(self):
        total = 0
        for pid in self.pids():
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            if line := re.search(r"^VmRSS:\s+(\d+) kB", status, re.M):
                total += int(line[1])
        return total


class Peer:
    """One proxy. `port` serves everything; client certificates are demanded at `mtls`."""

    name = "?"
    controls = "none"
    # Scenarios in which the comparison would not be of the same thing.
    skips = {}

    def __init__(self, lab, base_port):
        self.lab = lab
        self.port = base_port
        self.mtls_port = base_port + 1
        self.dir = lab.dir / self.name.replace(" ", "-")
        self.dir.mkdir()
        self.process = None
        self.write()

    def mtls(self):
        """Port and host at which a client certificate is demanded under /cert/."""
        return self.mtls_port, HOST

    def start(self):
        self.process = Process(self.name, self.argv(), self.lab.proxy_core, self.dir / "output.log")
        self.wait()
        self.settle()

    def wait(self):
        """Until it listens."""
        wait_for_port(self.process, self.port)

    def settle(self):
        """What is done once it listens."""

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def trim(self):
        """Between rounds."""


class Nginx(Peer):
    name = "nginx"
    binary = "nginx"
    controls = "none; no access log; limit_req and deny only where S11a and S11b ask for them"

    def version(self):
        return output_of([self.binary, "-v"]).split("/")[-1]

    def argv(self):
        return [self.binary, "-p", self.dir, "-c", self.dir / "nginx.conf"]

    def write(self):
        server = f"""
    ssl_certificate {self.lab.pki / "server.pem"};
    ssl_certificate_key {self.lab.pki / "server.key"};
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_ecdh_curve X25519;
    ssl_session_tickets on;
    client_max_body_size 0;
    deny {BANNED};
    location / {{ proxy_pass http://backend; }}
    location /limited {{ limit_req zone=spent; proxy_pass http://backend; }}"""
        (self.dir / "nginx.conf").write_text(
            f"""daemon off;
worker_processes 1;
worker_rlimit_nofile {FILES};
pid {self.dir}/nginx.pid;
error_log {self.dir}/error.log crit;
events {{ worker_connections 8000; }}
http {{
  access_log off;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 75s;
  http2_max_requests 1000000000;
  limit_req_zone $server_port zone=spent:1m rate=1r/m;
  limit_req_status 429;
  limit_req_log_level info;
  client_body_temp_path {self.dir}/body;
  proxy_temp_path {self.dir}/proxy;
  fastcgi_temp_path {self.dir}/fastcgi;
  uwsgi_temp_path {self.dir}/uwsgi;
  scgi_temp_path {self.dir}/scgi;
  upstream backend {{ server 127.0.0.1:{self.lab.backend_port}; keepalive 512; keepalive_requests 1000000000; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_request_buffering off;
  proxy_buffer_size 32k;
  proxy_buffers 8 32k;
  proxy_busy_buffers_size 128k;
  proxy_max_temp_file_size 0;
  server {{
    listen 127.0.0.1:{self.port} ssl http2 backlog=4096;{server}
  }}
  server {{
    listen 127.0.0.1:{self.mtls_port} ssl http2 backlog=4096;
    ssl_client_certificate {self.lab.pki / "client-ca.pem"};
    ssl_verify_client on;{server}
  }}
}}
"""
        )


class Haproxy(Peer):
    name = "haproxy"
    binary = "haproxy"
    controls = "none; no log; a stick-table and a reject rule only where S11a and S11b ask for them"

    def version(self):
        return output_of([self.binary, "-v"]).split()[2]

    def argv(self):
        return [self.binary, "-db", "-f", self.dir / "haproxy.cfg"]

    def write(self):
        (self.lab.pki / "server-both.pem").write_text(
            (self.lab.pki / "server.pem").read_text() + (self.lab.pki / "server.key").read_text()
        )
        tls = f"ssl crt {self.lab.pki}/server-both.pem alpn h2,http/1.1 curves X25519"
        (self.dir / "haproxy.cfg").write_text(
            f"""global
  nbthread 1
  maxconn 8000
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  timeout connect 2s
  timeout client 75s
  timeout server 30s
  timeout http-keep-alive 75s
  option forwardfor
  http-reuse always
backend spent
  stick-table type string size 10 expire 1h store http_req_rate(1h)
frontend door
  bind 127.0.0.1:{self.port} backlog 4096 {tls}
  bind 127.0.0.1:{self.mtls_port} backlog 4096 {tls} ca-file {self.lab.pki}/client-ca.pem verify required
  tcp-request connection reject if {{ src {BANNED} }}
  http-request track-sc0 str(all) table spent if {{ path_beg /limited/ }}
  http-request return status 429 content-type text/plain string "limited" if {{ path_beg /limited/ }} {{ sc0_http_req_rate(spent) gt 1 }}
  default_backend application
backend application
  server one 127.0.0.1:{self.lab.backend_port} maxconn 512 pool-max-conn 512
"""
        )


class Envoy(Peer):
    name = "envoy"
    binary = "envoy"
    controls = "none; no access log; a local rate limit only where S11a asks for it"
    skips = {"S11b": "its RBAC network filter decides after the handshake"}

    def version(self):
        return output_of([self.binary, "--version"]).split("version:")[1].split("/")[1]

    def argv(self):
        return [
            self.binary, "--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c", self.dir / "envoy.json",
        ]  # fmt: skip

    def write(self):
        chains = [self.listener(self.port, False), self.listener(self.mtls_port, True)]
        backend = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.lab.backend_port}}}
        cluster = {
            "name": "application",
            "type": "STATIC",
            "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]},
            "load_assignment": {"cluster_name": "application", "endpoints": [{"lb_endpoints": [{"endpoint": backend}]}]},
        }
        config = {"static_resources": {"listeners": chains, "clusters": [cluster]}}
        (self.dir / "envoy.json").write_text(json.dumps(config, indent=1))

    def listener(self, port, verify):
        types = "type.googleapis.com/envoy.extensions."
        limit_type = types + "filters.http.local_ratelimit.v3.LocalRateLimit"
        spent = {
            "@type": limit_type,
            "stat_prefix": "spent",
            "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
            "filter_enabled": {"default_value": {"numerator": 100}},
            "filter_enforced": {"default_value": {"numerator": 100}},
        }
        limited = {
            "match": {"prefix": "/limited/"},
            "route": {"cluster": "application", "timeout": "30s"},
            "typed_per_filter_config": {"envoy.filters.http.local_ratelimit": spent},
        }
        manager = {
            "@type": types + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "door",
            "use_remote_address": True,
            "generate_request_id": False,
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [limited, {"match": {"prefix": "/"}, "route": {"cluster": "application", "timeout": "30s"}}],
                    }
                ]
            },
            "http_filters": [
                {
                    "name": "envoy.filters.http.local_ratelimit",
                    "typed_config": {"@type": limit_type, "stat_prefix": "none"},
                },
                {"name": "envoy.filters.http.router", "typed_config": {"@type": types + "filters.http.router.v3.Router"}},
            ],
        }
        context = {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519"]},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(self.lab.pki / "server.pem")},
                    "private_key": {"filename": str(self.lab.pki / "server.key")},
                }
            ],
        }
        if verify:
            context["validation_context"] = {"trusted_ca": {"filename": str(self.lab.pki / "client-ca.pem")}}
        tls = {
            "@type": types + "transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": verify,
        }
        return {
            "name": f"door-{port}",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [
                {
                    "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
                    "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                }
            ],
        }


class Pingora(Peer):
    """The proxy of benches/peers/pingora: Pingora is a library, and this is as little as makes a proxy of it."""

    name = "pingora"
    binary = "pingora-peer"
    controls = "none; no log; a rate (pingora-limits) and a connection filter only where S11a and S11b ask for them"

    def version(self):
        return output_of([self.binary, "--version"])

    def argv(self):
        pki = self.lab.pki
        doors = [f"127.0.0.1:{port}" for port in (self.port, self.mtls_port, self.lab.backend_port)]
        return [self.binary, *doors, pki / "server.pem", pki / "server.key", pki / "client-ca.pem", BANNED]

    def write(self):
        """Its arguments say all."""


class Floor(Peer):
    """The proxy of benches/peers/floor: bytes without HTTP, the least that anything on tokio and rustls costs."""

    name = "floor"
    binary = "floor-peer"
    controls = "no HTTP, hence none; no log; one answer to all and a closed door only where S11a and S11b ask for them"
    skips = {"S2": "it copies bytes, and the backend speaks no HTTP/2"}

    def version(self):
        return output_of([self.binary, "--version"])

    def argv(self):
        pki = self.lab.pki
        doors = [f"127.0.0.1:{port}" for port in (self.port, self.mtls_port, self.lab.backend_port)]
        return [self.binary, *doors, pki / "server.pem", pki / "server.key", pki / "client-ca.pem", BANNED]

    def write(self):
        """Its arguments say all."""


class Doorward(Peer):
    """Every control on."""

    name = "doorward"
    controls = (
        f"{LIVE_BANS} live bans and 1,000 listed nets, guesses and a login rule, two limits a request (client, route), "
        "certificate rules (client_ca asked for on the site), approvals with automation held to them, "
        "access log and events to files, decision id and identity headers"
    )

    def __init__(self, lab, base_port):
        self.binary = lab.doorward
        # Apart from the config, as /var/log is from /etc.
        self.logs = lab.dir / f"{self.name}-logs"
        self.logs.mkdir(exist_ok=True)
        super().__init__(lab, base_port)

    def version(self):
        return output_of([self.binary, "--version"]).split()[-1]

    def mtls(self):
        return self.port, HOST

    def argv(self):
        return [self.binary, "--config", self.dir / "doorward.toml", "run"]

    def wait(self):
        super().wait()
        wait_for_door(self.process, self.door())

    def settle(self):
        """Bans over the operators' door, as `doorward bans add` would: one of them is the client of S11b."""
        nets = [f"198.18.{number // 256}.{number % 256}" for number in range(LIVE_BANS - 1)] + [BANNED]
        # Some at a time: each answer waits for the disk.
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(self.ban, [nets[start::16] for start in range(16)]))

    def door(self):
        return self.dir / "state" / "admin.sock"

    def ban(self, nets):
        connection = Admin(self.door())
        for net in nets:
            body = json.dumps({"key": net, "for": "6h", "reason": "bench"})
            connection.request("POST", "/bans/add", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            told = answer.read()
            if answer.status != 200:
                raise Failed(f"doorward did not take a ban: {answer.status} {told.decode()}")
        connection.close()

    def stop(self):
        super().stop()
        # Bans are kept on disk, and the next start makes them anew.
        shutil.rmtree(self.dir / "state", ignore_errors=True)

    def trim(self):
        for log in self.logs.iterdir():
            os.truncate(log, 0)

    def write(self):
        nets = ", ".join(f'"192.0.{2 + number // 64}.{number % 64 * 4}/30"' for number in range(1000))
        (self.dir / "doorward.toml").write_text(
            self.common(access=self.logs / "access.log", events=self.logs / "events.log")
            + f"""
[client_ca.bench]
roots = ["{self.lab.pki}/client-ca.pem"]
identity = "san-uri"
tenant = "bench"
kind = "service"

[login.form]
request = {{ method = "POST", path = "/login" }}
account = {{ form = "username" }}
secret = {{ form = "password" }}
failed = [{{ status = [401, 403] }}]
ok = [{{ redirect = "/home" }}]

[guesses]
per_client = {{ failures = 5, within = "10m" }}
per_account = {{ failures = 50, within = "1h" }}

[bans]
answer = "drop"
always = [{nets}]

[limit.per-client]
key = "client"
rate = "1000000/s"
[limit.per-route]
key = "route"
rate = "1000000/s"
[limit.per-identity]
key = "identity"
rate = "1000000/s"
[limit.spent]
key = "route"
rate = "1/h"
burst = 1

[approvals.signer.bench]
public_key = "{self.lab.pki}/signer.pub"
party = "provider"

[[site]]
hosts = ["{HOST}"]
client_ca = ["bench"]
client_cert = "optional"

  [[site.route]]
  path = "/"
  upstream = "application"
  login = "form"
  bots = "approved"
  limits = ["per-client", "per-route"]

  [[site.route]]
  path = "/cert/"
  upstream = "application"
  client_cert = "required"
  bots = "approved"
  allow = ["kind:service"]
  limits = ["per-client", "per-identity"]

  [[site.route]]
  path = "/limited/"
  upstream = "application"
  bots = "approved"
  limits = ["per-client", "spent"]
"""
        )

    def common(self, access, events):
        return f"""state_dir = "{self.dir}/state"
workers = 1

[listen]
https = ["127.0.0.1:{self.port}"]

[caps]
connections = 8000
connections_per_client = 8000
handshakes_per_client = "1000000/s"

[log]
access = "{access}"
events = "{events}"

[tls]
min_version = "1.3"
[[tls.certificate]]
chain = "{self.lab.pki}/server.pem"
key = "{self.lab.pki}/server.key"

[upstream.application]
servers = ["http://127.0.0.1:{self.lab.backend_port}"]
"""


class DoorwardLeast(Doorward):
    """What cannot be turned off, and nothing else."""

    name = "doorward-least"
    controls = (
        "what cannot be turned off: routes, canonical paths and hosts, header hygiene, decision ids; "
        "client certificates, a limit and a ban only where S6, S11a and S11b ask for them; logs to /dev/null"
    )

    def mtls(self):
        return self.port, "mtls.test"

    def settle(self):
        self.ban([BANNED])

    def write(self):
        (self.dir / "doorward.toml").write_text(
            self.common(access="/dev/null", events="/dev/null")
            + f"""
[client_ca.bench]
roots = ["{self.lab.pki}/client-ca.pem"]
identity = "san-uri"

[bans]
answer = "drop"

[limit.spent]
key = "route"
rate = "1/h"
burst = 1

[[site]]
hosts = ["{HOST}"]
  [[site.route]]
  path = "/"
  upstream = "application"
  bots = "any"
  [[site.route]]
  path = "/limited/"
  upstream = "application"
  bots = "any"
  limits = ["spent"]

[[site]]
hosts = ["mtls.test"]
client_ca = ["bench"]
client_cert = "required"
  [[site.route]]
  path = "/"
  upstream = "application"
  bots = "any"
"""
        )


class Backend(Nginx):
    """A plain HTTP/1.1 server on the load's core: files by sendfile, uploads read and thrown away."""

    name = "backend"

    def __init__(self, lab, port):
        super().__init__(lab, port)

    def start(self):
        self.process = Process(self.name, self.argv(), self.lab.load_core, self.dir / "output.log")
        wait_for_port(self.process, self.port)

    def write(self):
        root = self.dir / "files"
        for under in ("", "cert", "limited"):
            (root / under).mkdir(parents=True, exist_ok=True)
            for name, size in (("1k", 1024), ("100k", 100 * 1024), ("10m", 10 * 1024 * 1024)):
                (root / under / name).write_bytes(os.urandom(size))
        (self.dir / "nginx.conf").write_text(
            f"""daemon off;
worker_processes 1;
worker_rlimit_nofile {FILES};
pid {self.dir}/nginx.pid;
error_log {self.dir}/error.log crit;
events {{ worker_connections 8000; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  open_file_cache max=100;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_max_body_size 0;
  client_body_temp_path {self.dir}/body;
  proxy_temp_path {self.dir}/proxy;
  fastcgi_temp_path {self.dir}/fastcgi;
  uwsgi_temp_path {self.dir}/uwsgi;
  scgi_temp_path {self.dir}/scgi;
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    root {root};
    # The whole body is read first: an answer ahead of it makes proxies close the connection.
    location /upload {{
      client_body_buffer_size 128k;
      proxy_pass http://taken;
      proxy_http_version 1.1;
      proxy_pass_request_body off;
      proxy_set_header Content-Length 0;
      proxy_set_header Connection "";
    }}
  }}
  upstream taken {{ server unix:{self.dir}/taken.sock; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen unix:{self.dir}/taken.sock;
    location / {{ return 200 "taken"; }}
  }}
}}
"""
        )


class Admin(http.client.HTTPConnection):
    """HTTP over the operators' socket."""

    def __init__(self, path):
        super().__init__("doorward", timeout=30)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


PEERS = {peer.name: peer for peer in (Nginx, Haproxy, Envoy, Pingora, Floor, Doorward, DoorwardLeast)}


def wait_for_port(process, port):
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        process.alive()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Failed(f"{process.name} does not listen on {port} after {START_WITHIN:.0f} s; see {process.log}")


def wait_for_door(process, path):
    """The operators' socket opens a moment after the public port, and its file is there a moment before it listens."""
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        process.alive()
        with socket.socket(socket.AF_UNIX) as tried:
            try:
                tried.connect(str(path))
                return
            except OSError:
                time.sleep(0.05)
    raise Failed(f"{process.name} does not listen on {path} after {START_WITHIN:.0f} s; see {process.log}")


def output_of(argv):
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=30)
    return (done.stdout + done.stderr).strip().splitlines()[0] if (done.stdout + done.stderr).strip() else "?"
