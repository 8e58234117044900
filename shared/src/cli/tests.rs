//! What the three command lines share, tried piece by piece.

use super::*;
use crate::error::{Error, Kind};
use clap::Parser;

#[derive(Parser, Debug)]
#[command(name = "prog")]
struct Prog {
    #[arg(long)]
    size: Option<u64>,
    #[command(flatten)]
    list: ListArgs,
    name: String,
}

fn volumes() -> Table {
    let mut t = Table::new(&[Column::text("name"), Column::number("size"), Column::text("created").extra()]);
    t.row(vec![Cell::of("db"), Cell::Size(20 << 30), Cell::Time(0)]);
    t.row(vec![Cell::of("a-long-name"), Cell::Size(512), Cell::None]);
    t
}

#[test]
fn columns_are_plain_and_aligned() {
    let text = volumes().render(&ListArgs::default()).expect("renders");
    assert_eq!(text, "NAME         SIZE\ndb            20G\na-long-name  512B");
}

#[test]
fn bare_exact_and_chosen() {
    let args = ListArgs { columns: vec!["created".into(), "SIZE".into()], bare: true, exact: true };
    assert_eq!(volumes().render(&args).expect("renders"), "0\t21474836480\n-\t512");
    let args = ListArgs { columns: vec!["created".into()], ..ListArgs::default() };
    assert_eq!(volumes().render(&args).expect("renders"), "CREATED\n1970-01-01T00:00:00Z\n-");
    let args = ListArgs { columns: vec!["colour".into()], ..ListArgs::default() };
    let e = volumes().render(&args).expect_err("no such column");
    assert_eq!((e.kind(), e.hint_text()), (Kind::Refused, Some("columns: name,size,created")));
}

#[test]
fn a_cell_never_breaks_its_line() {
    let mut t = Table::new(&[Column::text("host")]);
    t.row(vec![Cell::of("a\nb\u{1b}[31m")]);
    assert_eq!(t.render(&ListArgs { bare: true, ..ListArgs::default() }).expect("renders"), "a?b?[31m");
}

#[test]
fn an_error_says_what_why_and_what_to_do() {
    let e = Error::new(Kind::NotFound, "volume 'x': no such volume").hint("see `fusevol-mgr volume ls`");
    assert_eq!(report::to_text("fusevol-mgr", &e), "fusevol-mgr: error: volume 'x': no such volume\nhint: see `fusevol-mgr volume ls`\n");
    let v: serde_json::Value = serde_json::from_str(&report::to_json(&e)).expect("JSON");
    assert_eq!(v["schema"], 1);
    assert_eq!(v["error"]["kind"], "not-found");
    assert_eq!(v["error"]["message"], "volume 'x': no such volume");
    assert_eq!(v["error"]["hint"], "see `fusevol-mgr volume ls`");
}

#[test]
fn a_wrong_command_line_is_an_error_like_any_other() {
    for (args, sentence, hint) in [
        (vec!["prog"], "the following required arguments were not provided: <NAME>", "usage: prog"),
        (vec!["prog", "x", "--sise", "1"], "unexpected argument '--sise' found", "--size"),
        (vec!["prog", "x", "--size", "big"], "invalid value 'big' for '--size <SIZE>'", "prog --help"),
    ] {
        let e = usage::as_error("prog", &Prog::try_parse_from(args).expect_err("wrong"));
        assert_eq!(e.kind().exit_code(), 2);
        assert!(e.context().starts_with(sentence), "{e}");
        assert!(e.hint_text().is_some_and(|h| h.contains(hint)), "{e}: {:?}", e.hint_text());
    }
}

#[test]
fn json_has_the_schema_first_and_lists_their_name() {
    let v = json::with_schema(&serde_json::json!({ "a": 1 })).expect("an object");
    assert_eq!(v["schema"], 1);
    assert!(json::with_schema(&[1]).is_err());
}

#[test]
fn json_is_seen_before_the_arguments_are_parsed() {
    let args = |a: &[&str]| a.iter().map(OsString::from).collect::<Vec<_>>();
    assert!(wants_json(&args(&["p", "ls", "--json"])));
    assert!(!wants_json(&args(&["p", "ls", "--", "--json"])));
    assert!(!wants_json(&args(&["--json"])));
}

#[test]
fn a_closed_pipe_is_quiet_and_other_failures_are_not() {
    let closed = out::failed(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
    assert_eq!(report::report("p", false, &closed), out::CLOSED_PIPE);
    assert!(!out::is_closed_pipe(&out::failed(std::io::Error::other("full"))));
    assert!(!out::is_closed_pipe(&Error::new(Kind::Io, "socket").because(std::io::Error::from(std::io::ErrorKind::BrokenPipe))));
}

#[test]
fn nothing_is_destroyed_without_a_yes() {
    assert!(confirm("volume db and its data would be lost", Yes { yes: true }).is_ok());
}
