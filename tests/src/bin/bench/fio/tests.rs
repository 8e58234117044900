//! fio's JSON as version 3.33 writes it, cut down to what is read.

use super::*;

const JOB: &str = r#"{ "fio version" : "fio-3.33", "jobs" : [ { "jobname" : "bench", "error" : 0,
  "read" : { "io_bytes" : 0, "runtime" : 0, "total_ios" : 0, "clat_ns" : { "min" : 0, "N" : 0 } },
  "write" : { "io_bytes" : 16777216, "runtime" : 312, "total_ios" : 4096, "short_ios" : 0,
    "clat_ns" : { "min" : 1, "N" : 4096, "percentile" : { "50.000000" : 2000, "99.000000" : 30500, "99.900000" : 400000, "99.990000" : 1 } } },
  "sync" : { "total_ios" : 16, "lat_ns" : { "min" : 0 } } } ] }"#;

#[test]
fn a_write_job() {
    let figures = parse(JOB, false).expect("it is fio's");
    let expected =
        Figures { ios: 4096, bytes: 16 << 20, seconds: 0.312, fsyncs: 16, p50_us: 2.0, p99_us: 30.5, p999_us: 400.0, cpu_us: 0.0 };
    assert_eq!(figures, expected);
    assert_eq!(parse(&format!("note: a word ahead\n{JOB}"), false).expect("it is fio's"), expected);
}

#[test]
fn what_is_no_figure() {
    let said = |text: &str, reads| parse(text, reads).expect_err("it is none").to_string();
    assert!(said(JOB, true).contains("nothing"));
    assert!(said("fio: no such file", false).contains("no JSON"));
    assert!(said(&JOB.replace("\"error\" : 0", "\"error\" : 5"), false).contains("error 5"));
    assert!(said(&JOB.replace("99.900000", "99.95"), false).contains("percentile"));
    assert!(said("{ \"jobs\" : [] }", false).contains("0 jobs"));
}
