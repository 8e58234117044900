//! The one place where it is decided who may ask what. Deny by default.
//!
//! - An unknown or revoked key: denied, whatever it asks.
//! - All but `Hello` need a session on the connection; one that is sealed, or whose lease is over, may only say `Goodbye`.
//! - A volume or snapshot on which the client has no right at all is not there for it: the same answer as for one that is not.
//! - Giving back needs no right, only the holding: `Detach`, `CloseSnapshot`, an unlock of what is attached, and `Fold` while a recall is under way.

use super::{ConnId, Core};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{ClientId, SessionNo, VolumeId};
use fusevol_shared::wire::messages::{Object, Request};
use fusevol_shared::wire::rights::Need;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub client: ClientId,
    pub session: Option<SessionNo>,
}

pub(super) fn no_session() -> Error {
    Error::new(Kind::Denied, "this connection has no session").hint("a session is opened by Hello")
}

pub(super) fn no_volume() -> Error {
    Error::new(Kind::NotFound, "no such volume").hint("`fusevol ls` lists the volumes that this client may use")
}

pub(super) fn no_snapshot() -> Error {
    Error::new(Kind::NotFound, "no such snapshot").hint("`fusevol ls` lists the volumes and snapshots that this client may use")
}

pub(super) fn lapsed() -> Error {
    Error::new(Kind::Lapsed, "the session is over, or its lease is").hint("open a new session")
}

impl Core {
    /// Whether this connection may ask this.
    ///
    /// # Errors
    /// `Denied`, `NotFound`, `Lapsed`.
    pub(super) fn check(&self, conn: ConnId, request: &Request) -> Result<Caller> {
        let known = self.conns.get(&conn).and_then(|c| Some((self.catalog.client_of(&c.print)?, c.session)));
        let Some((client, session)) = known else {
            return Err(Error::new(Kind::Denied, "the key is not known to this pool").hint("`fusevol-mgr client add` makes a key file"));
        };
        if client.revoked {
            return Err(Error::new(Kind::Denied, format!("client '{}' is revoked", client.name)).hint("ask the pool's administrator"));
        }
        let caller = Caller { client: client.id, session };
        let need = request.need();
        if need == Need::Client {
            return Ok(caller);
        }
        let session = session.ok_or_else(no_session)?;
        let alive = self.lives.get(&session).is_some_and(|l| !l.lapsed && !l.is_ending() && !l.is_sealed());
        let known = self.catalog.session(session).is_some_and(|s| s.client == client.id);
        if !known || !alive && !matches!(request, Request::Goodbye(_)) {
            return Err(lapsed());
        }
        let Need::On(right) = need else { return Ok(caller) };
        let missing = if matches!(request.object(), Object::Snapshot(_)) { no_snapshot } else { no_volume };
        let volume = self.volume_of(request.object()).ok_or_else(missing)?;
        let rights = self.catalog.rights(volume, client.id);
        if rights.has(right) || self.gives_back(session, volume, request) {
            return Ok(caller);
        }
        if rights.is_empty() {
            return Err(missing());
        }
        Err(Error::new(Kind::Denied, format!("client '{}' has not the right '{}' on this volume", client.name, right.as_str()))
            .hint("`fusevol-mgr access grant` gives it"))
    }

    fn volume_of(&self, object: Object) -> Option<VolumeId> {
        match object {
            Object::None => None,
            Object::Volume(id) => self.catalog.volume(id).map(|v| v.entry.id),
            Object::Snapshot(id) => self.catalog.snapshot(id).map(|s| s.entry.volume),
        }
    }

    /// Whether the request gives back what the session holds.
    fn gives_back(&self, session: SessionNo, volume: VolumeId, request: &Request) -> bool {
        match request {
            Request::Detach(_) => self.catalog.attachment_of(volume, session).is_some(),
            Request::Fold(_) => self.lives.get(&session).is_some_and(|l| l.recalled.contains_key(&volume)),
            Request::SetLock(m) => m.kind.is_none() && self.catalog.attachment_of(volume, session).is_some(),
            Request::CloseSnapshot(m) => self.catalog.is_open(m.snapshot, session),
            _ => false,
        }
    }
}
