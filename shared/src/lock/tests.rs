//! The table against a byte array, and the cases of fcntl(2) by hand.

use super::*;
use proptest::prelude::*;

const BYTES: u64 = 24;

fn span(start: u64, end: u64) -> Span {
    Span::new(start, end).expect("a span")
}

/// What the table must be: the lock of each byte, by owner.
#[derive(Default)]
struct Model(BTreeMap<(u8, u64), LockKind>);

impl Model {
    fn conflict(&self, owner: u8, s: Span, kind: LockKind) -> bool {
        (s.start()..=s.end()).any(|b| self.0.iter().any(|((o, at), k)| *o != owner && *at == b && k.conflicts(kind)))
    }

    fn set(&mut self, owner: u8, s: Span, kind: Option<LockKind>) -> bool {
        let mut weaker = false;
        for b in s.start()..=s.end() {
            let old = match kind {
                Some(k) => self.0.insert((owner, b), k),
                None => self.0.remove(&(owner, b)),
            };
            weaker |= old > kind;
        }
        weaker
    }
}

fn step() -> impl Strategy<Value = (u8, u64, u64, Option<LockKind>)> {
    let kind = prop_oneof![Just(None), Just(Some(LockKind::Read)), Just(Some(LockKind::Write))];
    (0..3_u8, 0..BYTES, 0..BYTES, kind)
}

proptest! {
    #[test]
    fn the_table_is_a_byte_array(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut table, mut model) = (LockTable::<u8>::default(), Model::default());
        for (owner, a, b, kind) in steps {
            let s = span(a.min(b), a.max(b));
            let refused = kind.is_some_and(|k| model.conflict(owner, s, k));
            prop_assert_eq!(kind.is_some_and(|k| table.conflict(owner, s, k).is_some()), refused);
            if refused {
                continue;
            }
            prop_assert_eq!(table.set(owner, s, kind, 7), model.set(owner, s, kind));
            for owner in 0..3 {
                let pieces = table.pieces(owner);
                prop_assert!(pieces.windows(2).all(|w| w[0].span.end() < w[1].span.start()
                    && (w[0].span.end() + 1 < w[1].span.start() || w[0].kind != w[1].kind)), "{:?}", pieces);
                for byte in 0..BYTES {
                    let there = pieces.iter().find(|p| p.span.meets(span(byte, byte))).map(|p| p.kind);
                    prop_assert_eq!(there, model.0.get(&(owner, byte)).copied());
                }
                let covered = |k| (s.start()..=s.end()).all(|b| model.0.get(&(owner, b)).is_some_and(|l| *l >= k));
                for k in [LockKind::Read, LockKind::Write] {
                    prop_assert_eq!(table.covers(owner, s, k), covered(k));
                }
                let within = table.within(owner, s);
                prop_assert_eq!((within[0].0.start(), within[within.len() - 1].0.end()), (s.start(), s.end()));
                prop_assert!(within.windows(2).all(|w| w[0].0.end() + 1 == w[1].0.start()));
                for (part, piece) in within {
                    prop_assert!((part.start()..=part.end()).all(|b| model.0.get(&(owner, b)).copied() == piece.map(|p| p.kind)));
                }
            }
            prop_assert_eq!(table.len(), table.iter().count());
        }
    }
}

#[test]
fn a_part_that_is_unlocked_splits_and_one_that_joins_merges() {
    let mut t = LockTable::default();
    assert!(!t.set(1, Span::ALL, Some(LockKind::Write), 5));
    assert!(t.set(1, span(100, 199), None, 5));
    assert_eq!(t.len(), 2);
    assert!(t.conflict(2, span(150, 150), LockKind::Write).is_none());
    assert_eq!(t.conflict(2, span(199, 200), LockKind::Read).map(|(o, p)| (o, p.span)), Some((1, span(200, LAST_BYTE))));
    assert!(t.set(1, span(150, 250), Some(LockKind::Read), 6), "200..=250 are locked less");
    assert!(!t.set(1, Span::ALL, Some(LockKind::Write), 7));
    assert_eq!(t.pieces(1), [Piece { span: Span::ALL, kind: LockKind::Write, pid: 7 }]);
    assert!(t.drop_owners(|o| o == 1) && t.is_empty() && !t.drop_owners(|_| true));
}

#[test]
fn what_is_no_span() {
    assert_eq!(Span::new(5, 4), None);
    assert_eq!(Span::new(0, u64::MAX), None);
    assert_eq!(Span { start: 9, end: 3 }.checked(), None);
}
