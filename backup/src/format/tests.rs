//! Golden bytes and round trips of every structure; no decoder takes a changed byte for right, or panics on any bytes.

use super::config::Config;
use super::envelope::{FileKind, HEADER, open, seal};
use super::id::{ChunkId, ChunkKind, FileId, hex};
use super::index::{self, IndexedPack};
use super::manifest::{Manifest, SnapshotRef, Stats, VolumeRef};
use super::node::{FANOUT, Node, Shape, span};
use super::pack::{self, Coding, END, HEAD, Row};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use proptest::prelude::*;

const REPO: FileId = FileId([0xAA; 16]);
const PACK: FileId = FileId([0xBB; 16]);

fn rows() -> Vec<Row> {
    let one = Row { id: ChunkId([1; 32]), offset: 144, stored: 100, plain: 65536, kind: ChunkKind::Data, coding: Coding::Zstd };
    vec![one, Row { id: ChunkId([2; 32]), offset: 244, stored: 172, plain: 172, kind: ChunkKind::Node, coding: Coding::Raw }]
}

fn packs() -> Vec<IndexedPack> {
    vec![IndexedPack { name: PACK, size: pack::file_size(2, 416), rows: rows() }]
}

fn node() -> Node {
    Node { level: 0, places: vec![Some(ChunkId([1; 32])), None, Some(ChunkId([3; 32]))] }
}

fn manifest() -> Manifest {
    Manifest {
        id: FileId([0xCC; 16]),
        volume: VolumeRef { name: "db".into(), id: VolumeId([1; 16]) },
        snapshot: SnapshotRef { name: "s".into(), id: SnapshotId([2; 16]), epoch: 3, taken: 4 },
        time_ns: 5,
        host: "h".into(),
        program: "p".into(),
        size: 3 * 65536 - 1,
        block_size: 16384,
        chunk_size: 65536,
        table: Some(ChunkId([9; 32])),
        previous: None,
        stats: Stats { data: 1, read: 2, chunks: 3, new_chunks: 4, new_bytes: 5, stored: 6, millis: 7 },
    }
}

/// The envelope of a payload of `length` bytes without its checksum, as FORMAT.md draws it.
fn envelope(kind: u8, length: u8) -> String {
    let zeros = "0".repeat(2 * 56);
    format!("46565245504f0d0a{kind:02x}000100000000{}{}{length:02x}00000000000000{zeros}", "00", "aa".repeat(16))
}

#[test]
fn golden_envelope() {
    let bytes = seal(FileKind::Manifest, REPO, b"hello");
    assert_eq!(hex(&bytes[..96]), envelope(5, 5));
    assert_eq!(hex(&bytes[96..128]), blake3::hash(&[&bytes[..96], b"hello"].concat()).to_hex().as_str());
    assert_eq!((&bytes[HEADER..], open(FileKind::Manifest, Some(REPO), &bytes).expect("whole").1), (&b"hello"[..], &b"hello"[..]));
}

#[test]
fn golden_pack() {
    let head = pack::encode_head(REPO, PACK);
    assert_eq!((head.len() as u64, hex(&head[..96]), hex(&head[128..])), (HEAD, envelope(2, 16), "bb".repeat(16)));
    let list = pack::encode_list(REPO, &rows());
    assert_eq!(hex(&list[..96]), envelope(3, 96));
    let first = format!("{}90000000640000000000010000010000", "01".repeat(32));
    let second = format!("{}f4000000ac000000ac00000001000000", "02".repeat(32));
    assert_eq!(hex(&list[128..224]), format!("{first}{second}"));
    assert_eq!(hex(&list[224..]), format!("a001000000000000{}", hex(b"FVPKEND1")));
    assert_eq!(pack::list_at(pack::file_size(2, 416), &list[224..]).expect("whole"), 416);
    assert_eq!(pack::decode_list(REPO, 416, &list[..224]).expect("whole"), rows());
    assert_eq!(pack::file_size(2, 416), 416 + list.len() as u64);
    assert_eq!(END, 16);
}

#[test]
fn golden_index() {
    let bytes = index::encode(REPO, &packs());
    assert_eq!(hex(&bytes[..96]), envelope(4, 128));
    assert_eq!(hex(&bytes[128..160]), format!("{}90020000000000000200000000000000", "bb".repeat(16)));
    assert_eq!(hex(&bytes[160..]), hex(&pack::encode_list(REPO, &rows())[128..224]));
    assert_eq!(index::decode(REPO, &bytes).expect("whole"), packs());
}

#[test]
fn golden_node() {
    let bytes = node().encode();
    let bitmap = format!("05{}", "00".repeat(127));
    assert_eq!(hex(&bytes), format!("4656544e0100000003000200{bitmap}{}{}", "01".repeat(32), "03".repeat(32)));
    assert_eq!(Node::decode(&bytes, 0, 3).expect("whole"), node());
    for (level, places) in [(1, 3), (0, 4), (0, 2)] {
        assert!(Node::decode(&bytes, level, places).is_err(), "level {level}, {places} places");
    }
}

#[test]
fn golden_json() {
    let config = Config::plain(REPO, 1 << 20, 7);
    let bytes = config.encode();
    let none = r#"{"name":"none","memory_kib":0,"passes":0,"lanes":0,"salt":""}"#;
    assert_eq!(
        String::from_utf8_lossy(&bytes[HEADER..]),
        format!(
            r#"{{"id":"{REPO}","chunk_size":1048576,"hash":"blake3-256","compression":"zstd","compression_level":3,"cipher":"none","kdf":{none},"key_slots":[],"created":7}}"#
        )
    );
    assert_eq!(Config::decode(&bytes).expect("whole"), config);
    let bytes = manifest().encode(REPO);
    let (volume, snapshot) = ("01010101-0101-0101-0101-010101010101", "02020202-0202-0202-0202-020202020202");
    assert_eq!(
        String::from_utf8_lossy(&bytes[HEADER..]),
        format!(
            concat!(
                r#"{{"id":"{}","volume":{{"name":"db","id":"{}"}},"snapshot":{{"name":"s","id":"{}","epoch":3,"taken":4}},"#,
                r#""time_ns":5,"host":"h","program":"p","size":196607,"block_size":16384,"chunk_size":65536,"table":"{}","previous":null,"#,
                r#""stats":{{"data":1,"read":2,"chunks":3,"new_chunks":4,"new_bytes":5,"stored":6,"millis":7}}}}"#
            ),
            "cc".repeat(16),
            volume,
            snapshot,
            "09".repeat(32)
        )
    );
    assert_eq!(Manifest::decode(REPO, FileId([0xCC; 16]), &bytes).expect("whole"), manifest());
    assert!(Manifest::decode(REPO, PACK, &bytes).is_err(), "a manifest under another name");
}

#[test]
fn a_chunks_name_is_its_content_and_its_kind() {
    assert_eq!(ChunkId::of(ChunkKind::Data, b"").to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    assert_ne!(ChunkId::of(ChunkKind::Data, b"x"), ChunkId::of(ChunkKind::Node, b"x"));
    assert!("AA".repeat(16).parse::<FileId>().is_err() && "aa".parse::<FileId>().is_err());
}

#[test]
fn what_is_newer_or_foreign_is_said_to_be() {
    let resealed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = seal(FileKind::Index, REPO, b"");
        change(&mut bytes);
        let sum = *blake3::hash(&bytes[..96]).as_bytes();
        bytes[96..128].copy_from_slice(&sum);
        open(FileKind::Index, Some(REPO), &bytes).map(drop).expect_err("refused")
    };
    assert_eq!(resealed(&|b| b[10] = 2).kind(), Kind::Version);
    assert_eq!(resealed(&|b| b[12] = 1).kind(), Kind::Version);
    assert_eq!(resealed(&|b| b[8] = 5).kind(), Kind::Damaged);
    assert!(resealed(&|b| b[16] = 0).to_string().contains("belongs to repository"));
    assert_eq!(resealed(&|b| b[41] = 1).kind(), Kind::Damaged);
    let mut c = Config::plain(REPO, 1 << 20, 7);
    c.cipher = "xchacha20-poly1305".into();
    assert_eq!(Config::decode(&c.encode()).expect_err("unknown").kind(), Kind::Version);
    c = Config::plain(REPO, 1000, 7);
    assert_eq!(Config::decode(&c.encode()).expect_err("no chunk size").kind(), Kind::Damaged);
    let mut m = manifest();
    m.size = 1 << 60;
    assert_eq!(Manifest::decode(REPO, m.id, &m.encode(REPO)).expect_err("too large").kind(), Kind::Damaged);
}

#[test]
fn rows_that_cannot_be() {
    let list = |change: &dyn Fn(&mut Row)| {
        let mut all = rows();
        change(&mut all[1]);
        let mut bytes = Vec::new();
        all.iter().for_each(|r| r.encode(&mut bytes));
        pack::decode_rows(&bytes)
    };
    assert!(list(&|_| ()).is_ok());
    assert!(list(&|r| r.offset += 1).is_err(), "a gap");
    assert!(list(&|r| r.offset -= 1).is_err(), "an overlap");
    assert!(list(&|r| r.plain = 0).is_err());
    assert!(list(&|r| r.plain = u32::MAX).is_err());
    assert!(list(&|r| r.stored = 0).is_err());
    assert!(list(&|r| r.stored = 400 << 20).is_err());
    assert!(list(&|r| r.coding = Coding::Zstd).is_err(), "compressed, but not smaller");
    assert!(pack::decode_rows(&[0; 47]).is_err() && pack::decode_rows(&[]).is_err());
}

#[test]
fn shapes() {
    assert_eq!(Shape::of(0, 65536), Shape { chunks: 0, root_level: 0 });
    assert_eq!(Shape::of(1 << 30, 1 << 20), Shape { chunks: 1024, root_level: 0 });
    assert_eq!(Shape::of((1 << 30) + 1, 1 << 20), Shape { chunks: 1025, root_level: 1 });
    let s = Shape::of((1 << 30) + 1, 1 << 20);
    assert_eq!((s.places(1, 0), s.places(0, 0), s.places(0, 1024)), (2, FANOUT, 1));
    let most = Shape::of(super::IMAGE_MAX, super::CHUNK_MIN);
    assert!(most.root_level <= super::node::LEVEL_MAX && span(most.root_level) >= most.chunks);
}

proptest! {
    #[test]
    fn a_changed_byte_is_never_taken_for_right(at: prop::sample::Index, change in 1u8..=255, cut: prop::sample::Index) {
        let flip = |mut bytes: Vec<u8>| { let i = at.index(bytes.len()); bytes[i] ^= change; bytes };
        let (config, m) = (Config::plain(REPO, 1 << 20, 7).encode(), manifest());
        prop_assert!(Config::decode(&flip(config.clone())).is_err());
        prop_assert!(Config::decode(&config[..cut.index(config.len())]).is_err());
        prop_assert!(Manifest::decode(REPO, m.id, &flip(m.encode(REPO))).is_err());
        prop_assert!(index::decode(REPO, &flip(index::encode(REPO, &packs()))).is_err());
        prop_assert!(pack::check_head(REPO, PACK, &flip(pack::encode_head(REPO, PACK))).is_err());
        let list = flip(pack::encode_list(REPO, &rows()));
        let (body, end) = list.split_at(list.len() - 16);
        let read = pack::list_at(pack::file_size(2, 416), end).and_then(|l| pack::decode_list(REPO, l, body));
        prop_assert!(read.is_err());
    }

    /// Payloads whose checksum is right, as a hostile writer makes them.
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), at: prop::sample::Index, value: u8) {
        let _ = Config::decode(&seal(FileKind::Config, REPO, &bytes));
        let _ = Config::decode(&bytes);
        let _ = Manifest::decode(REPO, PACK, &seal(FileKind::Manifest, REPO, &bytes));
        let _ = index::decode(REPO, &seal(FileKind::Index, REPO, &bytes));
        let _ = pack::decode_rows(&bytes);
        let _ = pack::list_at(bytes.len() as u64, &bytes);
        let _ = Node::decode(&bytes, 0, 3);
        let change = |mut good: Vec<u8>| { let i = at.index(good.len()); good[i] = value; good };
        let _ = Node::decode(&change(node().encode()), 0, 3);
        let body = index::encode(REPO, &packs())[HEADER..].to_vec();
        let _ = index::decode(REPO, &seal(FileKind::Index, REPO, &change(body)));
        let json = serde_json::to_vec(&manifest()).expect("JSON");
        let _ = Manifest::decode(REPO, manifest().id, &seal(FileKind::Manifest, REPO, &change(json)));
    }
}
