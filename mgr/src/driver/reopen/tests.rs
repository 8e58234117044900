//! The thread with image files, and a driver that answers as told. A disk that was not found stands for any that is lost.
#![allow(clippy::disallowed_methods)] // real threads live in real time

use super::*;
use arc_swap::ArcSwap;
use fusevol_shared::disk::absent::AbsentDisk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::format::label::{CatalogCopy, CatalogPointer, DiskLabel, Instance, LabelState};
use fusevol_shared::format::mark::{Age, Mark, mark_at};
use fusevol_shared::ids::{Generation, Seq};
use fusevol_shared::name::Name;
use fusevol_shared::units::AuSize;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const POOL: PoolId = PoolId([1; 16]);
const ID: DiskId = DiskId([2; 16]);
const NO: DiskNo = DiskNo(1);
const SIZE: u64 = 64 << 20;

/// An image with this label, and one mark.
fn image(no: DiskNo, id: DiskId) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let label = DiskLabel {
        pool: POOL,
        pool_name: Name::new("p").expect("a name"),
        disk: id,
        no,
        au_size: AuSize::DEFAULT,
        aus: 64,
        state: LabelState::Member,
        generation: Generation(3),
        writer: Instance([6; 16]),
        seq: Seq(7),
        set: vec![CatalogCopy { disk: id, no }],
        pointer: CatalogPointer { area: 1, first_seq: Seq(10), quarantine: [None; 4] },
    };
    let image = OpenOptions::new().write(true).open(file.path()).expect("it opens");
    image.set_len(SIZE).expect("a size");
    for at in label.layout().labels() {
        image.write_all_at(&label.encode(at), at.0).expect("it writes");
    }
    let mark = Mark { age: age(4), told: Vec::new() };
    image.write_all_at(&mark.encode(POOL, id), mark_at(mark.age.page()).0).expect("it writes");
    file
}

fn age(number: u64) -> Age {
    Age { generation: Generation(3), number: Seq(number) }
}

struct Rig {
    table: Table<File>,
    inputs: mpsc::Receiver<Input>,
    _reopener: Reopener,
}

impl Rig {
    fn new(image: &tempfile::NamedTempFile) -> Self {
        let disk = AbsentDisk::new(vec![image.path().into()], SIZE, "it was not there".to_owned());
        let table: Table<File> = Arc::new(ArcSwap::from_pointee(vec![(NO, ID, Arc::new(PoolDisk::Absent(disk)))]));
        let (to, inputs) = mpsc::channel(8);
        let reopener = Reopener::start(POOL, table.clone(), to).expect("a thread");
        Self { table, inputs, _reopener: reopener }
    }

    /// What the driver gets next.
    fn next(&mut self) -> Input {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let limit = Duration::from_secs(30);
        runtime.block_on(async { tokio::time::timeout(limit, self.inputs.recv()).await }).expect("it comes").expect("the thread lives")
    }

    fn opened(&mut self) -> (Box<Opened>, oneshot::Sender<Result<()>>) {
        match self.next() {
            Input::Reopened { no: NO, opened, answer } => (opened, answer),
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self) -> Option<String> {
        match self.next() {
            Input::Event(Event::DiskRefused { disk: NO, why }) => why,
            other => panic!("{other:?}"),
        }
    }

    /// What anybody reads of the disk who has it from the table.
    fn read(&self) -> std::result::Result<(), i32> {
        let disk = self.table.load().first().expect("one").2.clone();
        ring::block_on(disk.read(mark_at(0), IoBuf::zeroed(4096))).0.map_err(|e| e.errno)
    }
}

/// Nobody reads a disk that was not judged, or was refused; it is tried again and again, until it is the right one.
#[test]
fn what_is_not_judged_is_read_by_nobody_and_what_is_refused_is_tried_again() {
    let image = image(NO, ID);
    let mut rig = Rig::new(&image);
    let (opened, answer) = rig.opened();
    assert_eq!((opened.mark, opened.label.seq), (Some(age(4)), Seq(7)), "what the driver judges by");
    assert_eq!(rig.read(), Err(libc::ENOTCONN), "it is not judged yet");
    std::thread::sleep(Duration::from_millis(300));
    assert!(rig.inputs.try_recv().is_err(), "nor tried again");
    drop(opened);
    answer.send(Err(Error::new(Kind::Refused, "it is older"))).expect("it waits");
    assert_eq!(rig.refused().as_deref(), Some("it is older"));
    assert_eq!(rig.read(), Err(libc::ENOTCONN));
    let (opened, answer) = rig.opened();
    drop(opened);
    answer.send(Err(Error::new(Kind::Refused, "it is older"))).expect("it waits");
    // That was said.
    let (opened, answer) = rig.opened();
    let disk = Arc::new(opened.disk);
    rig.table.store(Arc::new(vec![(NO, ID, disk)]));
    answer.send(Ok(())).expect("it waits");
    assert_eq!(rig.read(), Ok(()));
    std::thread::sleep(Duration::from_millis(700));
    assert!(rig.inputs.try_recv().is_err(), "it is well");
}

/// The label decides before anything is handed over; once nothing is there any more that is said, too.
#[test]
fn a_disk_with_the_label_of_another_one_is_handed_to_nobody() {
    for (no, id, said) in [(NO, DiskId([9; 16]), "it is disk 09"), (DiskNo(2), ID, "disk number 2")] {
        let image = image(no, id);
        let mut rig = Rig::new(&image);
        let why = rig.refused().expect("it is refused");
        assert!(why.contains(said), "{why}");
        assert_eq!(rig.read(), Err(libc::ENOTCONN));
        drop(image);
        assert_eq!(rig.refused(), None);
    }
}
