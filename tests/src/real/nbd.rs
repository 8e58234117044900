//! NBD servers of the field, each under a guard that ends it by its pid: nbdkit with any plugin and filters, and qemu-nbd.
//!
//! The next one is started ahead, in a shell that waits for its turn: a new process closes what it inherits, the volume files of a load among them, and
//! each such close is a flush that may need the server which is about to be started.

use super::pool::free_port;
use super::wait::until;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// How the certificates of a server are made.
const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

/// A server, running or ended; it can be started again as it was.
pub struct NbdServer {
    program: &'static str,
    args: Vec<OsString>,
    place: Place,
    uri: String,
    log: PathBuf,
    running: Option<Child>,
    /// The next one, which waits for a line.
    next: Option<Child>,
}

enum Place {
    Unix(PathBuf),
    Tcp(String, u16),
}

impl NbdServer {
    /// nbdkit on the socket `dir/name.sock`: `args` are filters, plugin and parameters.
    #[must_use]
    pub fn nbdkit(dir: &Path, name: &str, args: &[&str]) -> Self {
        let socket = dir.join(format!("{name}.sock"));
        let all: Vec<OsString> = ["-f", "--exit-with-parent", "-U"].iter().map(OsString::from).chain([socket.clone().into()]).collect();
        Self::start_new("nbdkit", dir, name, all, args, Place::Unix(socket), |place| format!("nbd+unix:///{name}?socket={place}"))
    }

    /// The same on a port of the loopback, in clear.
    #[must_use]
    pub fn nbdkit_tcp(dir: &Path, name: &str, args: &[&str]) -> Self {
        Self::nbdkit_at("127.0.0.1", dir, name, args, "")
    }

    /// The same at this address of this host, with `params` at the end of the export's address.
    #[must_use]
    pub fn nbdkit_at(host: &str, dir: &Path, name: &str, args: &[&str], params: &str) -> Self {
        let port = free_port();
        let all = ["-f", "--exit-with-parent", "-i", host, "-p", &port.to_string()].iter().map(OsString::from).collect();
        Self::start_new("nbdkit", dir, name, all, args, Place::Tcp(host.to_owned(), port), |at| format!("nbd://{at}/{name}{params}"))
    }

    /// The same by TLS only: the server shows a certificate of a new authority, and asks for one of it; the address names the folder
    /// with both.
    #[must_use]
    pub fn nbdkit_tls(dir: &Path, name: &str, args: &[&str]) -> Self {
        let (port, pki) = (free_port(), certificates(dir, name));
        let text = ["-f", "--exit-with-parent", "-i", "127.0.0.1", "-p", &port.to_string(), "--tls=require", "--tls-verify-peer"];
        let mut all: Vec<OsString> = text.iter().map(OsString::from).collect();
        all.push(format!("--tls-certificates={}", pki.display()).into());
        let uri = |at: &str| format!("nbds://{at}/{name}?tls-certificates={}", pki.display());
        Self::start_new("nbdkit", dir, name, all, args, Place::Tcp("127.0.0.1".into(), port), uri)
    }

    /// qemu-nbd on the socket `dir/name.sock`, for 16 connections: `args` are options, `file` a raw image.
    #[must_use]
    pub fn qemu(dir: &Path, name: &str, file: &Path, args: &[&str]) -> Self {
        let socket = dir.join(format!("{name}.sock"));
        let text = ["--persistent", "--shared=16", "--format=raw", "--export-name", name, "--socket"];
        let all: Vec<OsString> = text.iter().map(OsString::from).chain([socket.clone().into(), file.into()]).collect();
        Self::start_new("qemu-nbd", dir, name, all, args, Place::Unix(socket), |place| format!("nbd+unix:///{name}?socket={place}"))
    }

    fn start_new(
        program: &'static str,
        dir: &Path,
        name: &str,
        mut args: Vec<OsString>,
        more: &[&str],
        place: Place,
        uri: impl FnOnce(&str) -> String,
    ) -> Self {
        args.extend(more.iter().map(OsString::from));
        let at = match &place {
            Place::Unix(path) => path.to_string_lossy().into_owned(),
            Place::Tcp(host, port) => format!("{host}:{port}"),
        };
        let (uri, log) = (uri(&at), dir.join(format!("{name}.{program}.log")));
        let mut server = Self { program, args, place, uri, log, running: None, next: None };
        server.start();
        server
    }

    /// Starts it (again) and waits until it takes connections.
    ///
    /// # Panics
    /// Where it runs already, or does not come to stand.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "{} runs already", self.uri);
        if let Place::Unix(path) = &self.place {
            // The socket of a server that was killed stays in its way.
            std::fs::remove_file(path).unwrap_or_default();
        }
        let mut child = self.next.take().unwrap_or_else(|| self.waiting());
        child.stdin.take().expect("piped").write_all(b"\n").expect("it waits for its turn");
        self.running = Some(child);
        until(&format!("{} to serve", self.uri), PATIENCE, || {
            if let Some(ended) = self.running.as_mut().and_then(|c| c.try_wait().expect("it is ours")) {
                panic!("{} has ended, {ended}: {}", self.program, self.log());
            }
            match &self.place {
                Place::Unix(path) => UnixStream::connect(path).is_ok().then_some(()),
                Place::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).is_ok().then_some(()),
            }
        });
        self.next = Some(self.waiting());
    }

    /// A server that starts once it gets a line.
    fn waiting(&self) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new("sh");
        command.args(["-c", "read -r go && exec \"$0\" \"$@\" </dev/null", self.program]).args(&self.args);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().expect("a shell starts")
    }

    /// Its address.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let child = self.running.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it is ours");
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        let mut child = self.running.take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("it is ours");
    }

    /// Whether it has ended by itself.
    ///
    /// # Panics
    /// As `start`.
    pub fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_some_and(|c| c.try_wait().expect("it is ours").is_some())
    }

    /// Starts it again where it has ended by itself: nbdkit may, on an assertion of its own, when a client is killed that reads. Whether it had.
    ///
    /// # Panics
    /// As `start`.
    pub fn revive(&mut self) -> bool {
        let ended = self.has_ended();
        if ended {
            self.running = None;
            self.start();
        }
        ended
    }

    /// Stops it where it stands: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        for mut child in self.running.take().into_iter().chain(self.next.take()) {
            // The test is over: whatever it is doing, it ends.
            child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
        }
        if std::thread::panicking() {
            eprintln!("--- {}: {}\n{}", self.program, self.uri, self.log());
        }
    }
}

/// Says a letter to nbdkit's pause filter (`p` pauses, `r` resumes) and waits for its answer.
///
/// # Errors
/// Where nobody answers.
///
/// # Panics
/// Where the filter answers something else.
pub fn pause_filter(control: &Path, letter: u8) -> std::io::Result<()> {
    let mut answer = [0];
    UnixStream::connect(control).and_then(|mut s| s.write_all(&[letter]).and_then(|()| s.read_exact(&mut answer)))?;
    assert_eq!(answer[0], letter.to_ascii_uppercase(), "the pause filter");
    Ok(())
}

/// A folder with an authority, and certificates of it for a server on this host and a client, named as the field names them.
///
/// # Panics
/// Where they cannot be made.
#[must_use]
pub fn certificates(dir: &Path, name: &str) -> PathBuf {
    let pki = dir.join(format!("{name}.pki"));
    std::fs::create_dir_all(&pki).expect("a folder");
    let write = |file: &str, text: String| std::fs::write(pki.join(file), text).expect("a file");
    let named = |hosts: &[&str], common: &str| {
        let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params
    };
    let mut params = named(&[], "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    write("ca-cert.pem", params.self_signed(&key).expect("a certificate").pem());
    let issuer = Issuer::new(params, key);
    for (who, hosts) in [("server", &HOSTS[..]), ("client", &[])] {
        let key = KeyPair::generate().expect("a key");
        write(&format!("{who}-cert.pem"), named(hosts, who).signed_by(&key, &issuer).expect("a certificate").pem());
        write(&format!("{who}-key.pem"), key.serialize_pem());
    }
    pki
}
