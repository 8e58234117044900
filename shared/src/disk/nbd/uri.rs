//! Addresses of NBD exports, as the NBD project's `doc/uri.md` writes them. Pure.
//!
//! ```text
//! nbd://HOST[:PORT]/EXPORT[?insecure=1]             in clear: to this host itself, or where the user says so
//! nbd+unix:///EXPORT?socket=PATH                    a unix socket
//! nbds://HOST[:PORT]/EXPORT?tls-certificates=DIR    TLS; DIR has ca-cert.pem, and client-cert.pem with client-key.pem
//!                                                   where the server asks for them
//! any of them, with `&` behind what is there: write-through=1   every write is durable when it is answered (FUA)
//!                                                stall-ms=N        how long a server may stand still before its path counts as lost
//! ```
//! An empty EXPORT is the server's default one. `%XX` stands for any byte in EXPORT, PATH and DIR. What is read here is
//! shown again by `Display` as a text that means the same.

use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The port that IANA gave to NBD.
pub const PORT: u16 = 10809;
/// Longest name of an export, bytes (the limit of NBD for strings).
pub const EXPORT_MAX: usize = 4096;
/// Longest address, bytes: what the catalog takes.
const URI_MAX: usize = 4096;

/// Where the server is, and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Server {
    /// In clear. `insecure`: the user has said that the network is separated.
    Tcp {
        /// Name or IP address, without brackets.
        host: String,
        /// Port.
        port: u16,
        /// In clear to other hosts, too.
        insecure: bool,
    },
    /// By TLS.
    Tls {
        /// Name or IP address, without brackets: what the server's certificate must be for.
        host: String,
        /// Port.
        port: u16,
        /// The folder with the certificates.
        certificates: PathBuf,
    },
    /// A unix socket of this host.
    Unix(PathBuf),
}

/// An export of a server.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NbdUri {
    /// Where.
    pub server: Server,
    /// Which; empty is the default one.
    pub export: String,
    /// Every write is durable when it is answered: a connection that is lost takes nothing with it.
    pub write_through: bool,
    /// How long it may stand still, other than usual.
    pub stall: Option<Duration>,
}

/// The shortest and longest time that a server may be given to stand still, milliseconds.
const STALL: std::ops::RangeInclusive<u64> = 100..=600_000;

/// Whether a text is meant as the address of an export: it has one of the schemes, right or not.
#[must_use]
pub fn is_nbd(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(s, _)| s.to_ascii_lowercase());
    scheme.is_some_and(|s| matches!(s.as_str(), "nbd" | "nbds") || s.starts_with("nbd+") || s.starts_with("nbds+"))
}

/// What may be said behind the `?`.
#[derive(Default)]
struct Params {
    socket: Option<String>,
    certificates: Option<String>,
    insecure: bool,
    write_through: bool,
    stall: Option<Duration>,
}

impl FromStr for NbdUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("'{text}' is no address of an NBD export: {why}");
        if text.len() > URI_MAX {
            return Err("an address of an NBD export is too long".to_owned());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        if rest.contains('#') {
            return Err(bad("a '#' within a name is written %23"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let export = decode(path).ok_or_else(|| bad("its export is no text"))?;
        if export.len() > EXPORT_MAX {
            return Err(bad("the name of the export is too long"));
        }
        let params = params(query).map_err(|e| bad(&e))?;
        let (write_through, stall) = (params.write_through, params.stall);
        let stray = |param: &str| bad(&format!("{param} does not belong to {scheme}://"));
        let server = match (scheme.to_ascii_lowercase().as_str(), params) {
            ("nbd", Params { socket: None, certificates: None, insecure, .. }) => {
                let (host, port) = host_and_port(authority).map_err(|e| bad(&e))?;
                Server::Tcp { host, port, insecure }
            }
            ("nbds", Params { socket: None, certificates: Some(dir), insecure: false, .. }) => {
                let (host, port) = host_and_port(authority).map_err(|e| bad(&e))?;
                Server::Tls { host, port, certificates: absolute(dir).map_err(|e| bad(&e))? }
            }
            ("nbd+unix", Params { socket: Some(path), certificates: None, insecure: false, .. }) if authority.is_empty() => {
                Server::Unix(absolute(path).map_err(|e| bad(&e))?)
            }
            ("nbds", Params { certificates: None, .. }) => {
                return Err(bad("say which authority to believe: ?tls-certificates=DIR, a folder with ca-cert.pem"));
            }
            ("nbd+unix", Params { socket: None, .. }) => return Err(bad("say which socket: ?socket=PATH")),
            ("nbd+unix", _) if !authority.is_empty() => return Err(bad("a unix socket has no host: nbd+unix:///EXPORT?socket=PATH")),
            ("nbd" | "nbds", Params { socket: Some(_), .. }) => return Err(stray("socket")),
            ("nbd" | "nbd+unix", Params { certificates: Some(_), .. }) => return Err(stray("tls-certificates")),
            ("nbds" | "nbd+unix", _) => return Err(stray("insecure")),
            _ => return Err(bad("only nbd://, nbds:// and nbd+unix:// are known")),
        };
        Ok(Self { server, export, write_through, stall })
    }
}

fn params(query: &str) -> Result<Params, String> {
    let mut all = Params::default();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).ok_or_else(|| format!("{name} is no text"))?;
        match name {
            "socket" => all.socket = Some(value),
            "tls-certificates" => all.certificates = Some(value),
            "insecure" => all.insecure = yes_or_no(name, &value)?,
            "write-through" => all.write_through = yes_or_no(name, &value)?,
            "stall-ms" => {
                let ms = value.parse().ok().filter(|ms| STALL.contains(ms));
                all.stall = Some(Duration::from_millis(ms.ok_or_else(|| format!("stall-ms is {} to {}", STALL.start(), STALL.end()))?));
            }
            _ => {
                let known = "socket, tls-certificates, insecure, write-through and stall-ms";
                return Err(format!("the parameter {name} is not known: {known} are"));
            }
        }
    }
    Ok(all)
}

fn yes_or_no(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(format!("{name} is 0 or 1")),
    }
}

/// A path from the root: the programs that read the address do not share a folder.
fn absolute(path: String) -> Result<PathBuf, String> {
    match path.starts_with('/') {
        true => Ok(path.into()),
        false => Err(format!("the path '{path}' does not begin at the root")),
    }
}

fn host_and_port(authority: &str) -> Result<(String, u16), String> {
    if authority.contains('@') {
        return Err("NBD knows no user names".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or("a bracket is open")?;
            host.parse::<Ipv6Addr>().map_err(|_| format!("'{host}' is no IPv6 address"))?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or("after a bracket comes :PORT")?) })
        }
        None => authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p))),
    };
    let of_a_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || host.len() > 255 || !host.chars().all(of_a_host) {
        return Err(format!("'{host}' is no host"));
    }
    let port = match port {
        None | Some("") => PORT,
        Some(p) => p.parse().ok().filter(|p| *p > 0).ok_or_else(|| format!("'{p}' is no port"))?,
    };
    Ok((host.to_owned(), port))
}

/// `%XX` as the byte that it stands for; `None` where the whole is no UTF-8, holds a NUL, or a `%` without two digits.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(if b == b'%' { hex(bytes.next()?)? << 4 | hex(bytes.next()?)? } else { b });
    }
    String::from_utf8(out).ok().filter(|s| !s.contains('\0'))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0.bytes() {
            match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'+' | b',' | b'@' => {
                    f.write_char(char::from(b))?;
                }
                _ => write!(f, "%{b:02X}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = Encoded(&self.export);
        let at = |host: &str, port: u16| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            if port == PORT { host } else { format!("{host}:{port}") }
        };
        let mut params = Vec::new();
        match &self.server {
            Server::Tcp { host, port, insecure } => {
                write!(f, "nbd://{}/{export}", at(host, *port))?;
                params.extend(insecure.then(|| "insecure=1".to_owned()));
            }
            Server::Tls { host, port, certificates } => {
                write!(f, "nbds://{}/{export}", at(host, *port))?;
                params.push(format!("tls-certificates={}", Encoded(&certificates.to_string_lossy())));
            }
            Server::Unix(path) => {
                write!(f, "nbd+unix:///{export}")?;
                params.push(format!("socket={}", Encoded(&path.to_string_lossy())));
            }
        }
        params.extend(self.write_through.then(|| "write-through=1".to_owned()));
        params.extend(self.stall.map(|stall| format!("stall-ms={}", stall.as_millis())));
        if params.is_empty() { Ok(()) } else { write!(f, "?{}", params.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_read_is_shown_again() {
        for (text, shown) in [
            ("nbd://localhost/", "nbd://localhost/"),
            ("nbd://localhost", "nbd://localhost/"),
            ("NBD://h.example:10809/a/b%20c", "nbd://h.example/a/b%20c"),
            ("nbd://[::1]:7/x?insecure=1", "nbd://[::1]:7/x?insecure=1"),
            ("nbd+unix:///d%231?socket=/run/a%20b", "nbd+unix:///d%231?socket=/run/a%20b"),
            ("nbd+unix:///x?write-through=1&socket=/s&stall-ms=700", "nbd+unix:///x?socket=/s&write-through=1&stall-ms=700"),
            ("nbds://10.0.0.1/x?tls-certificates=/etc/pki", "nbds://10.0.0.1/x?tls-certificates=/etc/pki"),
        ] {
            let uri: NbdUri = text.parse().unwrap();
            assert_eq!(uri.to_string(), shown);
            assert_eq!(shown.parse(), Ok(uri), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("nbd+ssh://h/x", "only nbd://"),
            ("nbd://user@h/x", "user names"),
            ("nbd:///x", "no host"),
            ("nbd://h:0/x", "no port"),
            ("nbd://h:99999/x", "no port"),
            ("nbd://[::1/x", "bracket"),
            ("nbd://h/x#1", "%23"),
            ("nbd://h/x?socket=/a", "socket"),
            ("nbd://h/x?tls-certificates=/a", "tls-certificates"),
            ("nbd://h/%zz", "no text"),
            ("nbd://h/%00", "no text"),
            ("nbd://h/x?colour=red", "colour"),
            ("nbd://h/x?write-through=yes", "0 or 1"),
            ("nbd://h/x?stall-ms=1", "100 to"),
            ("nbds://h/x", "tls-certificates=DIR"),
            ("nbds://h/x?tls-certificates=/a&insecure=1", "insecure"),
            ("nbd+unix:///x", "?socket=PATH"),
            ("nbd+unix://h/x?socket=/a", "no host"),
            ("nbd+unix:///x?socket=a", "root"),
        ] {
            let said = text.parse::<NbdUri>().expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
            assert!(is_nbd(text), "{text}");
        }
        assert!(!is_nbd("/dev/sda") && !is_nbd("./nbd://x") && !is_nbd("nbd") && !is_nbd("nbdx://"));
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "\\PC{0,60}", scheme in prop::sample::select(vec!["nbd", "nbds", "nbd+unix"])) {
            let _ = text.parse::<NbdUri>();
            let _ = format!("{scheme}://{text}").parse::<NbdUri>();
        }

        #[test]
        fn every_address_comes_back(export in "[^\0]{0,20}", socket in "/[^\0]{0,20}", port in 1u16.., insecure: bool,
                write_through: bool, stall in prop::option::of(STALL)) {
            let host = "h.example".to_owned();
            for server in [Server::Unix(socket.clone().into()), Server::Tcp { host: host.clone(), port, insecure }] {
                let uri = NbdUri { server, export: export.clone(), write_through, stall: stall.map(Duration::from_millis) };
                prop_assert_eq!(uri.to_string().parse(), Ok(uri));
            }
        }
    }
}
