//! How a TCP connection between client and manager is set: small frames at once, and a dead peer noticed within two or three seconds: there may be another
//! address, and what was not answered is said again there.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Silence after which the kernel asks the peer whether it is still there.
const KEEP_IDLE: Duration = Duration::from_secs(1);
/// How often it then asks again.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often in all.
const KEEP_COUNT: u32 = 2;
/// How long sent bytes may stay unconfirmed, milliseconds (`TCP_USER_TIMEOUT`, tcp(7)).
const UNCONFIRMED_MS: u32 = 1_500;

/// Sets a connection so.
///
/// # Errors
/// The socket's.
pub fn tune(socket: impl AsFd) -> io::Result<()> {
    use rustix::net::sockopt;
    let socket = socket.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, UNCONFIRMED_MS)?;
    Ok(())
}
