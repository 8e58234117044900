//! A bare caller of a real manager: one connection, one message at a time, with any certificate or none. What the
//! client programs would never say, this says.

use fusevol_shared::error::{Kind, Result, WireError};
use fusevol_shared::wire::codec::{Reader, encode};
use fusevol_shared::wire::frame::Limits;
use fusevol_shared::wire::keyfile::KeyFile;
use fusevol_shared::wire::messages::{FromClient, FromManager, Reply, Request};
use fusevol_shared::wire::tls::{ClientStream, ClientTls};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// How a request ended.
#[derive(Debug)]
pub enum Outcome {
    /// The manager answered.
    Answered(std::result::Result<Reply, WireError>),
    /// The connection ended instead.
    CutOff,
}

impl Outcome {
    /// The kind of the manager's refusal; `None` if it did as asked.
    #[must_use]
    pub fn refusal(&self) -> Option<Kind> {
        match self {
            Outcome::Answered(Ok(_)) => None,
            Outcome::Answered(Err(e)) => Some(e.kind),
            Outcome::CutOff => Some(Kind::Denied),
        }
    }
}

/// A connection.
pub struct Caller {
    reader: Reader<ReadHalf<ClientStream>, FromManager>,
    writer: WriteHalf<ClientStream>,
    next: u64,
}

impl Caller {
    /// Connects with this key.
    ///
    /// # Errors
    /// Where TLS says no at once; TLS 1.3 often says it only later.
    pub async fn connect(key: &KeyFile) -> Result<Self> {
        let tcp = TcpStream::connect(&key.managers[0]).await.expect("the manager listens");
        let tls: ClientTls = key.tls()?;
        let (r, writer) = tokio::io::split(tls.connect(tcp).await?);
        Ok(Self { reader: Reader::new(r, Limits::OPEN), writer, next: 1 })
    }

    /// Asks, and waits for the answer; pushes are passed over.
    pub async fn ask(&mut self, request: Request) -> Outcome {
        let id = self.next;
        self.next += 1;
        let frame = encode(&FromClient::Request { id, request }).expect("samples are small");
        if self.writer.write_all(&frame).await.is_err() || self.writer.flush().await.is_err() {
            return Outcome::CutOff;
        }
        while let Ok(Some(said)) = self.reader.next().await {
            match said {
                FromManager::Reply { id: answered, result } if answered == id => return Outcome::Answered(result),
                FromManager::Reply { .. } | FromManager::Push { .. } => {}
            }
        }
        Outcome::CutOff
    }
}
