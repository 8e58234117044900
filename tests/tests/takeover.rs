//! Clients that stand still past their leases, on hosts of which no lock tells anything: their volumes are taken over without a fence, and then they go on.

use fusevol_tests::real::mount::Mount;
use fusevol_tests::real::nbd::NbdServer;
use fusevol_tests::real::pool::Pool;
use fusevol_tests::real::stopped::Stopped;
use fusevol_tests::real::wait::{pause, timed, until};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(90);
const GRAIN: usize = 4096;
const GRAINS: u64 = 64;
/// Where the next writer writes, beside what the first one has: in the same allocation unit, and in others.
const OTHERS: [u64; 3] = [512 << 10, 5 << 20, 33 << 20];

/// Writes numbers, each to one page, each synced, and says each that was: by processes of their own, as whoever has a file of a
/// frozen mount open hangs when it closes it. The volume is open all the time.
const WRITER: &str = r#"
exec 3<>"$0"
i=0
while i=$((i+1)); do
    printf '%04096d' $i | dd bs=4096 count=1 iflag=fullblock seek=$((i % 64)) of="$0" conv=notrunc,fsync 2>/dev/null || exit 1
    echo $i
done
"#;

struct Writer {
    child: Child,
    said: Arc<Mutex<u64>>,
}

impl Writer {
    fn start(image: &Path) -> Self {
        let mut child = Command::new("sh").args(["-c", WRITER]).arg(image).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("sh");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let said = Arc::new(Mutex::new(0));
        let to = said.clone();
        std::thread::spawn(move || {
            for n in out.lines().map_while(Result::ok).filter_map(|l| l.trim().parse().ok()) {
                *to.lock().expect("whole") = n;
            }
        });
        let writer = Self { child, said };
        until("some writes", LONG, || (writer.synced() > 5).then_some(()));
        writer
    }

    /// The last number of which it was told that it is durable.
    fn synced(&self) -> u64 {
        *self.said.lock().expect("whole")
    }

    fn end(mut self) {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).unwrap_or_default();
    }
}

/// The number that each page holds; 0 where none was written. Anything else is torn.
fn numbers(file: &File) -> Vec<u64> {
    let mut page = vec![0u8; GRAIN];
    let mut one = |g: u64| {
        file.read_exact_at(&mut page, g * GRAIN as u64).expect("read");
        if page.iter().all(|b| *b == 0) {
            return 0;
        }
        let text = std::str::from_utf8(&page).expect("a page of digits");
        text.trim_start_matches('0').parse().unwrap_or_else(|e| panic!("page {g} is torn: {e}"))
    };
    (0..GRAINS).map(&mut one).collect()
}

/// Whether all numbers up to this one are there, or later ones in their places.
fn holds(held: &[u64], synced: u64) -> bool {
    (synced.saturating_sub(GRAINS - 1).max(1)..=synced).all(|n| held[usize::try_from(n % GRAINS).expect("small")] >= n)
}

fn open(image: &Path) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(image).ok()
}

/// One client that is frozen, with what it did.
struct Frozen {
    mount: Mount,
    writer: Writer,
    image: PathBuf,
}

fn freeze_and_take_over(pool: &mut Pool, volumes: &[&str]) {
    let _said = pool.mgr(&["pool", "set", "--fencing", "lease-only"]).ok();
    let frozen: Vec<Frozen> = volumes
        .iter()
        .enumerate()
        .map(|(i, v)| {
            pool.volume(v, "64M");
            let key = pool.client(&format!("frozen{i}"), &[(v, "read,write")]);
            let mount = Mount::new(&key, &pool.path().join(format!("frozen{i}")));
            let writer = Writer::start(&mount.image(v));
            Frozen { mount, writer, image: PathBuf::new() }
        })
        .collect();
    let grants: Vec<(&str, &str)> = volumes.iter().map(|v| (*v, "read,write")).collect();
    let other = Mount::new(&pool.client("other", &grants), &pool.path().join("other"));
    let frozen: Vec<Frozen> = frozen.into_iter().zip(volumes).map(|(f, v)| Frozen { image: other.image(v), ..f }).collect();
    let stopped: Vec<Stopped> = frozen.iter().map(|f| Stopped::new(f.mount.pid())).collect();
    pause(Duration::from_millis(300));
    let synced: Vec<u64> = frozen.iter().map(|f| f.writer.synced()).collect();
    // Past their leases of two seconds and the margin.
    pause(Duration::from_millis(2500));
    let (files, took) = timed(|| {
        let mut files: Vec<Option<File>> = frozen.iter().map(|_| None).collect();
        until("all volumes to be taken over", LONG, || {
            files.iter_mut().zip(&frozen).for_each(|(f, z)| *f = f.take().or_else(|| open(&z.image)));
            files.iter().all(Option::is_some).then_some(())
        });
        files.into_iter().flatten().collect::<Vec<File>>()
    });
    println!("{} volumes wanted to attached, with leases of 2 s that were over: {took:?}", volumes.len());
    assert!(took < Duration::from_secs(30), "{took:?}");
    let _said = pool.mgr(&["events"]).ok().says("unfenced");
    let before: Vec<Vec<u64>> = files.iter().map(numbers).collect();
    for ((held, synced), v) in before.iter().zip(&synced).zip(volumes) {
        assert!(holds(held, *synced), "{v}: {synced} was synced, and this is there: {held:?}");
    }
    for file in &files {
        for at in OTHERS {
            file.write_all_at(&[b'x'; 3 * GRAIN], at).expect("written");
        }
        file.sync_all().expect("synced");
    }
    // They go on, with whatever they had on their way.
    drop(stopped);
    pause(Duration::from_secs(2));
    for ((f, held), file) in frozen.iter().zip(&before).zip(&files) {
        let late = f.writer.synced();
        assert!(holds(held, late), "{late} was answered as durable, and this was taken over: {held:?}");
        assert_eq!(&numbers(file), held, "the old writer's late writes are read");
        let mut back = [0; 3 * GRAIN];
        for at in OTHERS {
            file.read_exact_at(&mut back, at).expect("read");
            assert!(back.iter().all(|b| *b == b'x'), "the new writer's data at {at}");
        }
    }
    drop(files);
    for f in frozen {
        // Its process may end by itself meanwhile, as its session is over.
        f.writer.end();
        f.mount.kill();
    }
    // From cold caches.
    other.umount();
    let again = Mount::new(&pool.path().join("other.key"), &pool.path().join("other"));
    for (held, v) in before.iter().zip(volumes) {
        let file = until("the volume to be there", LONG, || open(&again.image(v)));
        assert_eq!(&numbers(&file), held);
    }
    again.umount();
    pool.check();
}

/// > A lost client of another host is succeeded without a fence where the pool allows that: what it had synced is there, what it still writes is read by nobody.
#[test]
fn frozen_clients_of_another_host_are_succeeded_without_a_fence() {
    freeze_and_take_over(&mut Pool::elsewhere(), &["a", "b", "c"]);
}

/// The same where the disks are network disks, which know no locks at all.
#[test]
fn a_frozen_client_of_network_disks_is_succeeded_without_a_fence() {
    let scratch = fusevol_tests::real::pool::scratch();
    let servers: Vec<NbdServer> = (0..2)
        .map(|i| {
            let image = scratch.path().join(format!("n{i}.img"));
            File::create(&image).and_then(|f| f.set_len(1 << 30)).expect("a disk");
            NbdServer::nbdkit(scratch.path(), &format!("n{i}"), &["file", &image.display().to_string()])
        })
        .collect();
    let mut pool = Pool::on(servers.iter().map(|s| PathBuf::from(s.uri())).collect());
    freeze_and_take_over(&mut pool, &["net"]);
}
