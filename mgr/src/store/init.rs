//! Making a pool, and taking a further disk into one.
//!
//! ```text
//! init:  refuse used disks -> lock -> (force: wipe) -> labels `Preparing` on all -> read back: each its own
//!        -> owner records, checkpoint in area 0, flushed -> labels `Member`: other disks first, catalog disks last
//! ```
//! A crash before the last step leaves `Preparing` labels (or none): no pool yet, and `init` with force takes the disks
//! again. A crash within the last step leaves either too few catalog disks for a start, or a whole pool.

use super::area::Area;
use super::door::{Door, Who};
use super::group::{Group, Member};
use super::log::Store;
use super::record::{LogRecord, pack_pieces};
use super::survey::unused;
use fusevol_shared::disk::any::Lock;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::{Disk, DiskResult, label};
use fusevol_shared::error::{Context, Error, Kind, Result};
use fusevol_shared::format::envelope::MAGIC;
use fusevol_shared::format::label::{CATALOG_COPIES_MAX, CatalogCopy, CatalogPointer, DiskLabel, Finding, LabelState, Probe};
use fusevol_shared::format::layout::{AREAS, Layout};
use fusevol_shared::format::owner::OwnerState;
use fusevol_shared::format::sniff;
use fusevol_shared::ids::{DiskId, Generation, PoolId, Seq};
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuSize, DiskNo, DiskOff, PAGE, PAGE_U64};
use std::time::Duration;

/// The generation that makes a pool.
const FIRST: Generation = Generation(1);
/// How long a disk may take for one request while it is being labelled.
const LIMIT: Duration = Duration::from_secs(60);

/// A disk that is to join a pool.
pub struct NewDisk<D> {
    /// The disk, open for writing.
    pub disk: D,
    /// Its path, for people.
    pub path: String,
    /// Its new identity.
    pub id: DiskId,
    /// Its new number.
    pub no: DiskNo,
}

/// A pool that is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewPool {
    /// Its identity: new.
    pub pool: PoolId,
    /// Its name.
    pub name: Name,
    /// Its AU size.
    pub au_size: AuSize,
    /// The lease under which it will be served.
    pub lease: Duration,
}

/// Makes a pool of these disks, the first three of which hold the catalog; its catalog is `genesis`. The manager that
/// serves it first comes with [`super::open`].
///
/// # Errors
/// `Refused`: no disk, too small, used and not `force`, or the same disk twice. `Busy`: a manager holds one. `Io`.
pub async fn create<D, W, R>(disks: Vec<NewDisk<D>>, pool: &NewPool, who: &Who, door: W, force: bool, genesis: &[R]) -> Result<()>
where
    D: Disk,
    W: Door<D>,
    R: LogRecord,
{
    let set: Vec<CatalogCopy> = disks.iter().take(CATALOG_COPIES_MAX).map(|d| CatalogCopy { disk: d.id, no: d.no }).collect();
    if set.is_empty() {
        return Err(Error::new(Kind::Refused, "a pool needs at least one disk"));
    }
    let model = |layout: Layout, d: &NewDisk<D>| DiskLabel {
        pool: pool.pool,
        pool_name: pool.name.clone(),
        disk: d.id,
        no: d.no,
        au_size: pool.au_size,
        aus: layout.aus,
        state: LabelState::Preparing,
        generation: FIRST,
        writer: who.instance,
        seq: Seq(1),
        set: set.clone(),
        pointer: CatalogPointer { area: 0, first_seq: Seq(1), quarantine: [None; AREAS as usize] },
    };
    // Everything is looked at before anything is written.
    let mut found = Vec::new();
    for d in &disks {
        let layout = Layout::for_disk(pool.au_size, d.disk.size()).map_err(|e| e.within(&d.path))?;
        found.push((unused(&d.disk, &d.path, force).await?, model(layout, d)));
        free_of_managers(&door, &d.disk, &d.path)?;
    }
    let mut members = Vec::new();
    for (d, (finding, label)) in disks.into_iter().zip(found) {
        prepare(&d.disk, &finding, &label).await.context(Kind::Io, || format!("{} cannot be labelled", d.path))?;
        members.push(Member { disk: d.disk, path: d.path, label, well: true, kept: None });
    }
    for m in &members {
        own_label(m).await?;
    }
    let set: Vec<usize> = (0..set.len()).collect();
    let group = Group { pool: pool.pool, members, door, limit: LIMIT };
    let area = Area::fresh(0, Seq(1), 1, group.area_pages(&set));
    let mut store = Store {
        group,
        set,
        who: who.clone(),
        generation: FIRST,
        lease: pool.lease,
        state: OwnerState::Claiming,
        beat: Seq(0),
        label_seq: Seq(2),
        quarantine: [None; AREAS as usize],
        area,
        grow: false,
        outgrown: false,
        warnings: Vec::new(),
        over: false,
    };
    store.found(genesis).await
}

impl<D: Disk, W: Door<D>> Store<D, W> {
    /// The writes that make the pool, on disks that carry `Preparing` labels.
    async fn found<R: LogRecord>(&mut self, genesis: &[R]) -> Result<()> {
        let failed = |what: &'static str| move |e| Error::new(Kind::Io, what).because(e);
        let none = |what, failed_ones: Vec<(usize, _)>| match failed_ones.into_iter().next() {
            Some((_, e)) => Err(failed(what)(e)),
            None => Ok(()),
        };
        let pieces = pack_pieces(genesis)?;
        self.area.check_fits(&pieces)?;
        none("the owner table cannot be written", self.enter(&self.set, 0).await)?;
        let mut area = self.area.clone();
        none("the catalog cannot be written", self.lay_down(&self.set, &mut area, &pieces).await)?;
        self.area = area;
        let model = self.model();
        let others: Vec<usize> = self.group.well().into_iter().filter(|i| !self.set.contains(i)).collect();
        let set = self.set.clone();
        for which in [&others, &set] {
            none("a label cannot be written", self.group.publish(which, &set, &model).await?)?;
        }
        self.state = OwnerState::Ended;
        none("the owner record cannot be written", self.write_owner(0, true).await)
    }

    /// Labels a further disk as a member of the pool. It counts once the catalog says so; a further copy of the catalog
    /// comes to it with the next commit, where fewer than three are.
    ///
    /// # Errors
    /// `Refused`: used and not `force`, too small, its identity or number is there already. `Busy`, `Io`, `Lapsed`. The
    /// store goes on, but after `Lapsed`.
    pub async fn add_disk(&mut self, new: NewDisk<D>, force: bool) -> Result<()> {
        self.check().await?;
        let pool = self.model();
        if self.disks().any(|(l, _)| l.disk == new.id || l.no == new.no) {
            return Err(Error::new(Kind::Refused, format!("disk {} ({}) is in the pool already", new.no, new.id)));
        }
        let layout = Layout::for_disk(pool.au_size, new.disk.size()).map_err(|e| e.within(&new.path))?;
        let finding = unused(&new.disk, &new.path, force).await?;
        if let Finding::Label(l, _) = &finding
            && self.disks().any(|(m, _)| m.disk == l.disk)
        {
            return Err(Error::new(Kind::Refused, format!("{} is disk {} of this very pool", new.path, l.no)));
        }
        free_of_managers(&self.group.door, &new.disk, &new.path)?;
        let label = DiskLabel { disk: new.id, no: new.no, aus: layout.aus, state: LabelState::Preparing, ..pool };
        prepare(&new.disk, &finding, &label).await.context(Kind::Io, || format!("{} cannot be labelled", new.path))?;
        let member = Member { disk: new.disk, path: new.path, label, well: true, kept: None };
        own_label(&member).await?;
        self.label_seq = self.label_seq.next();
        let (model, index) = (self.model(), self.group.members.len());
        self.group.members.push(member);
        if let Some((i, e)) = self.group.publish(&[index], &self.set.clone(), &model).await?.into_iter().next() {
            if i == index {
                self.group.members.pop();
            }
            return Err(Error::new(Kind::Io, "the new disk cannot be labelled").because(e));
        }
        self.grow = self.further().is_some();
        Ok(())
    }
}

fn free_of_managers<D: Disk, W: Door<D>>(door: &W, disk: &D, path: &str) -> Result<()> {
    match door.try_lock(disk)? {
        Lock::Taken | Lock::Absent => Ok(()),
        Lock::Held => Err(Error::new(Kind::Busy, format!("a manager on this host has {path} open")).hint("end that manager first")),
    }
}

/// Refuses where the disk does not carry the label that was just written to it: two paths led to one disk.
async fn own_label<D: Disk>(m: &Member<D>) -> Result<()> {
    match label::probe(&m.disk).await.context(Kind::Io, || format!("{} cannot be read", m.path))? {
        Finding::Label(l, flaws) if flaws.is_empty() && *l == m.label => Ok(()),
        _ => Err(Error::new(
            Kind::Refused,
            format!("{} does not hold what was written to it: it is another of these disks, or broken", m.path),
        )),
    }
}

/// Wipes what a used disk is known by, and writes the three copies of its first label.
async fn prepare<D: Disk>(disk: &D, finding: &Finding, label: &DiskLabel) -> DiskResult<()> {
    let size = disk.size() / PAGE_U64 * PAGE_U64;
    let zero = async |at: DiskOff, len: usize| disk.write(at, IoBuf::zeroed(len).freeze()).await;
    if *finding != Finding::Blank {
        zero(DiskOff(0), sniff::HEAD).await?;
        zero(DiskOff(size - sniff::TAIL as u64), sniff::TAIL).await?;
        let old = match finding {
            Finding::Label(l, _) => Some(l.layout().labels()[2]),
            _ => None,
        };
        for at in Probe::places(size).into_iter().chain(old) {
            let (read, page) = disk.read(at, IoBuf::zeroed(PAGE)).await;
            read?;
            if page.starts_with(&MAGIC) {
                zero(at, PAGE).await?;
            }
        }
        disk.flush().await?;
    }
    for at in label.layout().labels() {
        disk.write(at, IoBuf::copy_of(&label.encode(at)).freeze()).await?;
        disk.flush().await?;
    }
    Ok(())
}
