//! How numbers and tables look.

use super::*;

#[test]
fn three_digits() {
    assert_eq!(number(Some(12345.6)), "12346");
    assert_eq!(number(Some(45.67)), "45.7");
    assert_eq!(number(Some(4.567)), "4.57");
    assert_eq!(number(None), "-");
}

#[test]
fn both_looks() {
    let rows = vec![vec!["read".to_owned(), "9".to_owned()], vec![String::new(), "10".to_owned()]];
    let sheet = Sheet { head: vec!["work", "rate"], left: 1, rows };
    assert_eq!(sheet.plain().expect("it is drawn"), "WORK  RATE\nread     9\n-       10");
    assert_eq!(sheet.markdown(), "| work | rate |\n| --- | ---: |\n| read | 9 |\n|  | 10 |\n");
}
