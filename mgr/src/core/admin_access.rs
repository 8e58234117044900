//! The administrator's verbs on clients and access.

use super::admin_api::{AccessView, Level};
use super::view::new_name;
use super::{AdminReply, AdminRequest, Core};
use crate::catalog::record::Record;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{ClientId, KeyPrint, SessionNo, VolumeId};
use fusevol_shared::wire::rights::Rights;

impl Core {
    pub(super) fn admin_access(&mut self, request: AdminRequest) -> Result<AdminReply> {
        match request {
            AdminRequest::ClientAdd { name, print } => self.client_add(&name, print),
            AdminRequest::ClientList => Ok(AdminReply::Clients(self.client_views())),
            AdminRequest::ClientRemove { name } => self.client_remove(&name),
            AdminRequest::ClientRevoke { name } => self.client_revoke(&name),
            AdminRequest::AccessGrant { volume, client, rights } => {
                let (v, c) = self.volume_and_client(&volume, &client)?;
                let all = self.catalog.rights(v, c).or(rights);
                self.access(v, c, all)
            }
            AdminRequest::AccessRevoke { volume, client, rights } => {
                let (v, c) = self.volume_and_client(&volume, &client)?;
                let left = rights.map_or(Rights::NONE, |r| self.catalog.rights(v, c).minus(r));
                self.access(v, c, left)
            }
            AdminRequest::AccessList { volume, client } => {
                let v = volume.map(|v| self.named_volume(&v).map(|v| v.entry.id)).transpose()?;
                let c = client.map(|c| self.named_client(&c).map(|c| c.id)).transpose()?;
                Ok(self.access_view(v, c))
            }
            _ => Err(Error::new(Kind::Internal, "a verb that nobody answers")),
        }
    }

    fn volume_and_client(&self, volume: &str, client: &str) -> Result<(VolumeId, ClientId)> {
        Ok((self.named_volume(volume)?.entry.id, self.named_client(client)?.id))
    }

    fn client_add(&mut self, name: &str, print: KeyPrint) -> Result<AdminReply> {
        let name = new_name(name)?;
        if self.catalog.client_named(name.as_str()).is_some() || self.catalog.client_of(&print).is_some() {
            return Err(
                Error::new(Kind::Exists, format!("a client is named '{name}' already, or has this key")).hint("choose another name")
            );
        }
        if self.catalog.clients().count() >= self.config.limits.clients {
            return Err(Error::new(Kind::Refused, "the pool has as many clients as it can"));
        }
        self.check_room_in_catalog()?;
        let id = ClientId::from_random(self.random.id());
        self.commit(Record::ClientAdded { id, name: name.clone(), print, created: self.now.seconds() })?;
        self.tell(Level::Ok, "client-added", format!("client '{name}' was added"));
        Ok(AdminReply::Client(self.client_view(self.named_client(name.as_str())?)))
    }

    pub(super) fn sessions_of(&self, client: ClientId) -> Vec<SessionNo> {
        self.catalog.sessions().filter(|s| s.client == client).map(|s| s.no).collect()
    }

    fn client_remove(&mut self, name: &str) -> Result<AdminReply> {
        let (id, name) = self.named_client(name).map(|c| (c.id, c.name.clone()))?;
        if let Some(s) = self.sessions_of(id).first() {
            let e = Error::new(Kind::Busy, format!("{} is open", self.who(*s)));
            return Err(e.hint(format!("unmount there, or `fusevol-mgr client revoke {name}` first")));
        }
        self.commit(Record::ClientRemoved { id })?;
        self.tell(Level::Ok, "client-removed", format!("client '{name}' was removed"));
        Ok(AdminReply::Done)
    }

    fn client_revoke(&mut self, name: &str) -> Result<AdminReply> {
        let (id, name, revoked) = self.named_client(name).map(|c| (c.id, c.name.clone(), c.revoked))?;
        if revoked {
            return Ok(AdminReply::Done);
        }
        self.commit(Record::ClientRevoked { id })?;
        self.tell(Level::Warning, "client-revoked", format!("client '{name}' was revoked"));
        self.recall_beyond_rights(id, None, "the client was revoked");
        for s in self.sessions_of(id) {
            self.doom(s, "its client was revoked");
        }
        Ok(AdminReply::Done)
    }

    fn access(&mut self, volume: VolumeId, client: ClientId, rights: Rights) -> Result<AdminReply> {
        let former = self.catalog.rights(volume, client);
        if rights != former {
            self.commit(Record::AccessSet { volume, client, rights })?;
            self.list_of_changed(client);
            self.recall_beyond_rights(client, Some(volume), "the right to it was taken away");
            let v = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
            let c = self.catalog.client(client).map_or_else(String::new, |c| c.name.to_string());
            let now = if rights.is_empty() { "no right".to_owned() } else { rights.to_string() };
            self.tell(Level::Ok, "access-set", format!("client '{c}' has on volume '{v}': {now}"));
        }
        Ok(self.access_view(Some(volume), Some(client)))
    }

    fn access_view(&self, volume: Option<VolumeId>, client: Option<ClientId>) -> AdminReply {
        let mut all: Vec<AccessView> = self
            .catalog
            .access()
            .filter(|(v, c, _)| volume.is_none_or(|x| x == *v) && client.is_none_or(|x| x == *c))
            .filter_map(|(v, c, rights)| {
                let volume = self.catalog.volume(v)?.entry.name.clone();
                Some(AccessView { volume, client: self.catalog.client(c)?.name.clone(), rights })
            })
            .collect();
        all.sort_by(|a, b| (&a.volume, &a.client).cmp(&(&b.volume, &b.client)));
        AdminReply::Access(all)
    }
}
