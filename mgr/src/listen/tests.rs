//! Who is let in, and what happens to those who break the rules; on real sockets.

mod faults;
mod handshake;
mod limits;

use super::*;
use crate::authority::Authority;
use crate::data::NoData;
use fusevol_shared::ids::{BootId, Generation, PoolId, SessionId, SessionNo};
use fusevol_shared::name::Name;
use fusevol_shared::units::AuSize;
use fusevol_shared::wire::codec::{Reader, encode};
use fusevol_shared::wire::frame::{FrameError, Limits};
use fusevol_shared::wire::keyfile::KeyFile;
use fusevol_shared::wire::messages::{FromClient, FromManager, Hello, ListVolumes, PROTOCOL, Request, Welcome};
use fusevol_shared::wire::tls::ClientStream;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;

const POOL: PoolId = PoolId([4; 16]);
/// Nothing here takes this long; what does hangs.
const HANG: Duration = Duration::from_secs(60);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn authority() -> Authority {
    Authority::create(POOL, &name("san1")).unwrap()
}

struct Manager {
    authority: Authority,
    listener: Listener,
    events: mpsc::Receiver<Event>,
}

impl Manager {
    async fn new(limits: ListenLimits) -> Self {
        let authority = authority();
        let (sender, events) = mpsc::channel(64);
        let listener = Listener::bind(&["127.0.0.1:0".into()], authority.tls().unwrap(), Arc::new(NoData), limits, sender).await.unwrap();
        Self { authority, listener, events }
    }

    fn address(&self) -> SocketAddr {
        self.listener.addresses()[0]
    }

    fn key(&self, client: &str) -> KeyFile {
        self.authority.key_file(&name("san1"), &name(client), vec![self.address().to_string()]).unwrap().0
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    async fn event(&mut self) -> Event {
        timeout(HANG, self.events.recv()).await.expect("no event comes").unwrap()
    }

    async fn connected(&mut self) -> ConnId {
        match self.event().await {
            Event::Connected { conn, .. } => conn,
            other => panic!("{other:?}"),
        }
    }

    async fn gone(&mut self, conn: ConnId) {
        loop {
            if self.event().await == (Event::Disconnected { conn }) {
                return;
            }
        }
    }

    /// A client with a session.
    async fn welcome(&mut self, client: &mut Client) -> ConnId {
        client.say(0, hello(4)).await;
        let conn = self.connected().await;
        assert!(matches!(self.event().await, Event::Request { id: 0, request: Request::Hello(_), .. }));
        self.listener.connections().reply(conn, 0, Ok(Reply::Welcome(welcome())));
        assert!(matches!(client.hear().await, Ok(Some(FromManager::Reply { id: 0, result: Ok(Reply::Welcome(_)) }))));
        conn
    }
}

struct Client {
    reader: Reader<ReadHalf<ClientStream>, FromManager>,
    writer: WriteHalf<ClientStream>,
}

impl Client {
    async fn new(manager: &Manager, key: &KeyFile) -> Self {
        let stream = key.tls().unwrap().connect(manager.dial().await).await.unwrap();
        let (read, writer) = tokio::io::split(stream);
        Self { reader: Reader::new(read, Limits::OPEN), writer }
    }

    async fn send(&mut self, message: FromClient) {
        // A connection that is closed meanwhile shows in what is heard.
        let frame = encode(&message).unwrap();
        let _ = self.writer.write_all(&frame).await;
        let _ = self.writer.flush().await;
    }

    async fn say(&mut self, id: u64, request: impl Into<Request>) {
        self.send(FromClient::Request { id, request: request.into() }).await;
    }

    async fn hear(&mut self) -> std::result::Result<Option<FromManager>, FrameError> {
        timeout(HANG, self.reader.next()).await.expect("nothing is heard")
    }

    async fn closed(&mut self) {
        while let Ok(Some(_)) = self.hear().await {}
    }
}

fn hello(host_len: usize) -> Hello {
    let host = "h".repeat(host_len);
    Hello { protocol: PROTOCOL, session: SessionId([1; 16]), boot: BootId([2; 16]), host, program: "test".into(), resume: false }
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionNo(1),
        pool: POOL,
        pool_name: "san1".into(),
        au_size: AuSize::DEFAULT,
        lease_ms: 10_000,
        generation: Generation(1),
        disks: vec![],
        slots: vec![],
        moves: 0,
        reservations: false,
    }
}
