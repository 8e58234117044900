//! The command line as it is typed: the tree of verbs with their arguments, and nothing else.

use crate::catalog::record::Fencing;
use clap::{Args, Parser, Subcommand};
use fusevol_shared::change::WhenFull;
use fusevol_shared::cli::{ListArgs, Yes};
use fusevol_shared::disk::any::Address;
use fusevol_shared::name::{Name, Target};
use fusevol_shared::wire::rights::Rights;
use fusevol_shared::{error::Error, size};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the manager keeps its configuration unless told otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/fusevol-mgr";

/// Manager of a fusevol pool: it owns the metadata of shared disks; clients read and write the disks themselves.
///
/// `init` makes a pool of raw disks, `serve` runs its manager; every other verb asks the running manager over a socket
/// in --dir, and waits for one that is starting. Sizes are typed with K, M, G, T, P (powers of 1024).
///
/// Exit codes: 0 done, 1 failed, 2 wrong use or refused, 3 done in part, 4 no such object, 5 busy, 6 not allowed,
/// 7 manager unreachable, 8 no space.
#[derive(Parser, Debug)]
#[command(name = "fusevol-mgr", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration, admin socket and the authority's key
    #[arg(long, global = true, env = "FUSEVOL_DIR", default_value = DEFAULT_DIR, value_name = "DIR")]
    pub dir: PathBuf,
    /// Print JSON, errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for a manager that is starting
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub wait: u64,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Every verb.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a pool of raw disks
    Init(Init),
    /// Take over a pool on this host, from its disks alone
    Adopt(Adopt),
    /// Run the manager in the foreground; prints "ready" (and tells systemd) when it serves
    Serve {
        /// Your word that no other manager of this pool is alive, that nothing of one is under way to the disks, and that missing
        /// catalog disks are to be left behind
        #[arg(long)]
        force: bool,
    },
    /// The pool
    #[command(subcommand, arg_required_else_help = true)]
    Pool(Pool),
    /// Disks of the pool
    #[command(subcommand, arg_required_else_help = true)]
    Disk(Disk),
    /// Volumes
    #[command(subcommand, arg_required_else_help = true)]
    Volume(Volume),
    /// Snapshots
    #[command(subcommand, arg_required_else_help = true)]
    Snapshot(Snapshot),
    /// Jobs: volumes that lack copies, and how far they are
    #[command(subcommand, arg_required_else_help = true)]
    Job(Job),
    /// Clients: each is one key
    #[command(subcommand, arg_required_else_help = true)]
    Client(Client),
    /// Rights of clients on volumes
    #[command(subcommand, arg_required_else_help = true)]
    Access(Access),
    /// How the pool is, and what to do about it
    Status(Status),
    /// What happened
    Events(Events),
    /// Prove the catalog against the disks, offline (no manager may run)
    Check(Check),
    /// Print what stands on the disks, one line for each block, offline; reads only
    Dump(Dump),
}

/// `init`
#[derive(Args, Debug)]
pub struct Init {
    /// Name of the pool
    #[arg(long, value_name = "NAME")]
    pub pool: Name,
    /// Address on which clients reach the manager; may be given several times
    #[arg(long, required = true, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Address that clients are told instead of --listen (needed where that is 0.0.0.0 or [::])
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Vec<String>,
    /// Allocation unit: a power of two from 256K to 64M
    #[arg(long, default_value = "1M", value_parser = parse_size, value_name = "SIZE")]
    pub au_size: u64,
    /// How long a client may use its maps without hearing from the manager
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=300))]
    pub lease: u64,
    /// Block devices, NBD exports (nbd://HOST/EXPORT), or plain files that every client sees too
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<Address>,
}

/// `adopt`
#[derive(Args, Debug)]
pub struct Adopt {
    /// File with the recovery key that `init` printed; asked for on a terminal where it is not given
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
    /// Address on which clients reach the manager; may be given several times
    #[arg(long, required = true, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Address that clients are told instead of --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Vec<String>,
    /// The pool's disks
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<Address>,
}

/// `pool ...`
#[derive(Subcommand, Debug)]
pub enum Pool {
    /// Name, sizes, disks and generation
    Show,
    /// Change a setting of the pool
    Set {
        /// What must be before somebody else gets what a lost client could still write
        #[arg(long, value_enum, value_name = "POLICY", required_unless_present_any = ["rebuild_after", "reservations"])]
        fencing: Option<FencingArg>,
        /// Whether lost hosts are cut off by SCSI or NVMe persistent reservations: clients that are mounted from then on register with the disks
        #[arg(long, value_enum, value_name = "on|off")]
        reservations: Option<Switch>,
        /// How long copies on a disk that failed may be missing before they are made elsewhere
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
        rebuild_after: Option<u64>,
    },
}

/// `on` or `off`
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

/// `--fencing`
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum FencingArg {
    /// A fence agent has cut it off, its byte lock is free, or `client confirm-dead`
    Required,
    /// A fence agent where one knows the client; else SEAL and lease, and what it could still write is taken over by copies
    Best,
    /// The same at once: no agent is asked
    LeaseOnly,
}

impl From<FencingArg> for Fencing {
    fn from(arg: FencingArg) -> Self {
        match arg {
            FencingArg::Required => Fencing::Required,
            FencingArg::Best => Fencing::Best,
            FencingArg::LeaseOnly => Fencing::LeaseOnly,
        }
    }
}

/// `disk ...`
#[derive(Subcommand, Debug)]
pub enum Disk {
    /// Look at disks and say whose they are; reads only
    Scan {
        /// Disks to look at; the block devices of this host where none is given
        disks: Vec<Address>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Add a disk to the pool
    Add {
        /// A block device, NBD export or plain file without foreign data
        disk: Address,
        /// Holds copies only in place of those that are given up
        #[arg(long)]
        spare: bool,
        /// What fails together has one name: two copies are not put there
        #[arg(long, value_name = "NAME")]
        domain: Option<Name>,
    },
    /// Give a disk up: what it holds is copied elsewhere at once
    Fail {
        /// Its number, identity or path
        disk: String,
        /// It is well after all
        #[arg(long)]
        clear: bool,
    },
    /// List the pool's disks
    Ls {
        #[command(flatten)]
        list: ListArgs,
    },
}

/// `job ...`
#[derive(Subcommand, Debug)]
pub enum Job {
    /// List the volumes that lack copies
    Ls {
        #[command(flatten)]
        list: ListArgs,
    },
    /// How far one is
    Show {
        /// VOL or POOL/VOL
        volume: Target,
    },
    /// Wait until a volume (all of them, where none is said) has all its copies
    Wait {
        /// VOL or POOL/VOL
        volume: Option<Target>,
        /// At most so long
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        timeout: u64,
    },
    /// Copy nothing for now
    Pause {
        /// VOL or POOL/VOL
        volume: Target,
    },
    /// Go on
    Resume {
        /// VOL or POOL/VOL
        volume: Target,
    },
    /// Copy no faster
    Limit {
        /// VOL or POOL/VOL
        volume: Target,
        /// Bytes a second, as 50M; 0: no limit
        #[arg(value_parser = parse_rate, value_name = "RATE")]
        rate: u64,
    },
    /// What else can be done about one: a volume that lacks copies is not left so
    Cancel {
        /// VOL or POOL/VOL
        volume: Target,
    },
}

fn parse_rate(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_size(text) }
}

/// `volume ...`
#[derive(Subcommand, Debug)]
pub enum Volume {
    /// Make a volume; it takes no space until it is written
    Create {
        /// Its name
        name: Name,
        /// Its size, as 20G
        #[arg(long, value_parser = parse_size, value_name = "SIZE")]
        size: u64,
        /// Copies of all that it holds, on different disks
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
        mirror: u8,
    },
    /// List volumes
    Ls {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Everything about a volume
    Show {
        /// VOL or POOL/VOL
        volume: Target,
    },
    /// Change a volume's settings
    Set {
        /// VOL or POOL/VOL
        volume: Target,
        /// What happens when there is no space to preserve blocks of a snapshot: the snapshot breaks, or the writer stops
        #[arg(long, value_enum, value_name = "WHAT")]
        when_full: WhenFullArg,
    },
    /// Remove a volume and its data
    Rm {
        /// VOL or POOL/VOL
        volume: Target,
        #[command(flatten)]
        destroy: Destroy,
    },
    /// Where the data lies: runs of allocation units on disks
    Map {
        /// VOL or POOL/VOL
        volume: Target,
        #[command(flatten)]
        list: ListArgs,
    },
}

/// `--when-full`
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum WhenFullArg {
    /// The snapshot breaks and reads as an error; the writer goes on
    BreakSnapshot,
    /// The writer gets errors until there is space
    StopWriter,
}

impl From<WhenFullArg> for WhenFull {
    fn from(arg: WhenFullArg) -> Self {
        match arg {
            WhenFullArg::BreakSnapshot => WhenFull::BreakSnapshot,
            WhenFullArg::StopWriter => WhenFull::StopWriter,
        }
    }
}

/// `snapshot ...`
#[derive(Subcommand, Debug)]
pub enum Snapshot {
    /// Take snapshots: each of its volume's state at one instant
    Create {
        /// VOL@SNAP
        #[arg(required = true, value_name = "VOL@SNAP")]
        snapshots: Vec<Target>,
    },
    /// List snapshots
    Ls {
        /// Of this volume only
        volume: Option<Target>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Remove a snapshot
    Rm {
        /// VOL@SNAP
        #[arg(value_name = "VOL@SNAP")]
        snapshot: Target,
        #[command(flatten)]
        destroy: Destroy,
    },
}

/// `client ...`
#[derive(Subcommand, Debug)]
pub enum Client {
    /// Make a key for a new client, in one file
    Add {
        /// Its name
        name: Name,
        /// The key file to write (mode 0600; must not exist)
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Address of the manager for this client, instead of the configured ones
        #[arg(long, value_name = "HOST:PORT")]
        address: Vec<String>,
    },
    /// List clients and their sessions
    Ls {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Remove a client that has no session; its rights go with it
    Rm {
        /// Its name
        name: Name,
        #[command(flatten)]
        destroy: Destroy,
    },
    /// Refuse a client's key from now on; its sessions end
    Revoke {
        /// Its name
        name: Name,
        #[command(flatten)]
        destroy: Destroy,
    },
    /// Let a client in again that a fence agent has cut off from its disks
    Unfence {
        /// Its name
        name: Name,
    },
    /// Declare that a silent client's host is down: what it held is given away
    ///
    /// Only when nothing of that host can reach the disks any more (powered off, or cut off at the switch).
    ConfirmDead {
        /// Its name
        name: Name,
        #[command(flatten)]
        destroy: Destroy,
    },
}

/// `access ...`
#[derive(Subcommand, Debug)]
pub enum Access {
    /// Give a client rights on a volume
    Grant {
        /// VOL or POOL/VOL
        volume: Target,
        /// The client
        client: Name,
        /// read, write, snapshot, backup, admin, separated by commas; or all
        rights: Rights,
    },
    /// Take rights away; all of them where none is named
    Revoke {
        /// VOL or POOL/VOL
        volume: Target,
        /// The client
        client: Name,
        /// read, write, snapshot, backup, admin, separated by commas; or all
        #[arg(default_value = "all", hide_default_value = true)]
        rights: Rights,
    },
    /// List rights
    Ls {
        /// On this volume only
        volume: Option<Target>,
        #[command(flatten)]
        list: ListArgs,
    },
}

/// `status`
#[derive(Args, Debug)]
pub struct Status {
    /// For monitoring: one line; exit 0 well, 1 warning, 2 critical or unreachable, 3 unknown
    #[arg(long)]
    pub check: bool,
}

/// `events`
#[derive(Args, Debug)]
pub struct Events {
    /// Go on: print what happens from now on, too
    #[arg(short, long)]
    pub follow: bool,
}

/// `check`
#[derive(Args, Debug)]
pub struct Check {
    /// Compare the copies of mirrored volumes, too: reads all of them
    #[arg(long)]
    pub copies: bool,
    /// The pool's disks; those of the configuration in --dir where none is given
    pub disks: Vec<Address>,
}

/// `dump`
#[derive(Args, Debug)]
pub struct Dump {
    /// Which structure
    pub what: Structure,
    /// The pool's disks; those of the configuration in --dir where none is given
    pub disks: Vec<Address>,
    /// Of this volume only: journal and preserve
    #[arg(long, value_name = "VOL")]
    pub volume: Option<Name>,
}

/// What `dump` prints.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Structure {
    /// The label's three copies
    Label,
    /// Managers of the past and the present, and their SEALs
    Owners,
    /// Blocks and records of the catalog's log, on each copy
    Catalog,
    /// Heartbeats and SEALs of sessions
    Slots,
    /// Journals of those who write
    Journal,
    /// Preserve segments of snapshots
    Preserve,
}

/// For verbs that destroy.
#[derive(Args, Clone, Copy, Debug)]
pub struct Destroy {
    #[command(flatten)]
    pub yes: Yes,
    /// Only say what would be lost
    #[arg(short = 'n', long = "dry-run")]
    pub plan: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    size::parse(text).map_err(|e: Error| e.to_string())
}
