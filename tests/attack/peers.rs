//! The same request forms against nginx and HAProxy, where they are installed: what they do otherwise is printed, not judged.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::Door;
use crate::common::forms::forms;
use crate::common::play::{from, play};
use crate::common::recorder::Recorder;
use crate::report::Report;

/// Plays the table against each, and prints the forms whose outcome is not the gateway's.
pub fn compare(report: &Report, certs: &Path, recorder: &Recorder, ours: &[String]) {
    for (name, start) in [("nginx", nginx as fn(&Path, SocketAddr, SocketAddr) -> std::io::Result<Child>), ("haproxy", haproxy)] {
        let folder = tempfile::tempdir().expect("a folder");
        // Held by nobody once it is known.
        let https = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        fs::copy(certs.join("portal.crt"), folder.path().join("portal.pem")).expect("a copy");
        fs::copy(certs.join("portal.key"), folder.path().join("portal.pem.key")).expect("a copy");
        let child = match start(folder.path(), https, recorder.address) {
            Ok(child) => Peer(child),
            Err(error) => {
                println!("{name} is not here: {error}");
                continue;
            }
        };
        if !ready(https) {
            println!("{name} did not start");
            continue;
        }
        let door = Door { https, roots: certs.join("server-ca.pem") };
        let (mut bad, mut other) = (0, 0);
        for (place, (form, ours)) in forms().iter().zip(ours).enumerate() {
            let outcome = report.run(play(&door, recorder, form, from(place)));
            let theirs = outcome.as_ref().map_or_else(ToString::to_string, ToString::to_string);
            if theirs != *ours {
                other += 1;
                let garbage = theirs.contains("garbage");
                bad += usize::from(garbage);
                println!("{name}: {}{}: {theirs}; ours: {ours}", form.name, if garbage { " (BAD)" } else { "" });
            }
        }
        drop(child);
        println!("{name}: {other} forms with another outcome, {bad} of them with bytes upstream that are no request\n");
    }
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ready(https: SocketAddr) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        if TcpStream::connect(https).is_ok() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

fn nginx(folder: &Path, https: SocketAddr, upstream: SocketAddr) -> std::io::Result<Child> {
    let at = folder.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\nevents {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         client_header_timeout 2s; client_body_timeout 2s; lingering_timeout 1s;\n\
         upstream app {{ server {upstream}; keepalive 8; }}\n\
         server {{ listen {https} ssl; server_name localhost; ssl_certificate {at}/portal.pem; ssl_certificate_key {at}/portal.pem.key;\n\
         location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; \
         proxy_request_buffering off; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    let run = |program: &str| {
        Command::new(program).arg("-c").arg(&file).arg("-p").arg(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    run("nginx").or_else(|_| run("/usr/sbin/nginx"))
}

fn haproxy(folder: &Path, https: SocketAddr, upstream: SocketAddr) -> std::io::Result<Child> {
    let config = format!(
        "defaults\n mode http\n timeout client 2s\n timeout server 5s\n timeout connect 2s\n timeout http-request 2s\n\
         frontend door\n bind {https} ssl crt {at}/portal.pem\n default_backend app\n\
         backend app\n server app {upstream}\n",
        at = folder.display()
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config)?;
    let run = |program: &str| Command::new(program).arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    run("haproxy").or_else(|_| run("/usr/sbin/haproxy"))
}
