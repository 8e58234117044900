//! Which of several addresses is used: tried in turn, but who is slow is not waited for.

use fusevol_shared::error::Result;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;
use tokio::time::sleep;

/// How long an address is tried before the next one is, beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// The addresses as they are tried: the one that was good last, then the others in their order.
pub(crate) fn in_order(all: &[String], good: Option<&String>) -> Vec<String> {
    let good = all.iter().find(|a| Some(*a) == good);
    good.into_iter().chain(all.iter().filter(|a| Some(*a) != good)).cloned().collect()
}

/// A connection to the first of these addresses that answers. Takes those out of `left` that failed, each of which is told to `failed`, and the one that
/// is used.
pub(crate) async fn first<T>(
    left: &mut Vec<String>,
    connect: impl AsyncFn(&str) -> Result<T>,
    mut failed: impl FnMut(&str, fusevol_shared::error::Error),
) -> Option<(String, T)> {
    let connect = &connect;
    let mut asked = FuturesUnordered::new();
    let mut waiting = left.clone().into_iter();
    loop {
        if let Some(address) = waiting.next() {
            asked.push(async move { (connect(&address).await, address) });
        } else if asked.is_empty() {
            return None;
        }
        let more = waiting.len() > 0;
        let head_start = async {
            match more {
                true => sleep(HEAD_START).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((connected, address)) = asked.next() => {
                left.retain(|a| *a != address);
                match connected {
                    Ok(stream) => return Some((address, stream)),
                    Err(e) => failed(&address, e),
                }
            }
            () = head_start => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::error::{Error, Kind};
    use std::cell::RefCell;

    fn addresses() -> Vec<String> {
        ["a", "b", "c"].map(str::to_owned).into()
    }

    #[test]
    fn the_good_one_comes_first() {
        assert_eq!(in_order(&addresses(), Some(&"b".to_owned())), ["b", "a", "c"]);
        assert_eq!(in_order(&addresses(), Some(&"x".to_owned())), ["a", "b", "c"]);
        assert_eq!(in_order(&addresses(), None), ["a", "b", "c"]);
    }

    #[test]
    fn who_is_slow_is_not_waited_for_and_who_failed_is_not_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (tried, failed) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let connect = async |address: &str| {
            tried.borrow_mut().push(address.to_owned());
            match address {
                "a" => std::future::pending().await,
                "b" => Err(Error::new(Kind::Unreachable, "refused")),
                _ => Ok(7),
            }
        };
        let mut left = addresses();
        let got = runtime.block_on(first(&mut left, connect, |a, _| failed.borrow_mut().push(a.to_owned())));
        assert_eq!(got, Some(("c".to_owned(), 7)));
        assert_eq!((left, failed.take(), tried.take()), (vec!["a".to_owned()], vec!["b".to_owned()], addresses()));
        let none = runtime.block_on(first(&mut vec!["b".to_owned()], connect, |_, _| ()));
        assert_eq!(none, None);
    }
}
