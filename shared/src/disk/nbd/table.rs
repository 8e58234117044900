//! The requests of one connection that were sent and not answered: by their cookies, with limits.
//!
//! Invariant: a cookie is given out once in the life of a connection; a reply to any other is the server's error.

use super::request::Request;
use std::cell::{Cell, RefCell};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A place for one request.
struct Slot {
    cookie: u64,
    since: Instant,
    len: u64,
    flush: bool,
    /// `None` while its data are being read.
    request: Option<Request>,
}

pub(super) struct Table {
    slots: RefCell<Vec<Option<Slot>>>,
    held: Cell<usize>,
    bytes: Cell<u64>,
    bytes_max: u64,
    last: Cell<u64>,
    /// When something was answered last.
    heard: Cell<Instant>,
    /// Somebody may go on: there is room, or something to watch.
    room: Notify,
    begun: Notify,
}

impl Table {
    /// For so many requests, and about so many bytes of data: one request always finds room.
    pub fn new(requests: usize, bytes: u64) -> Self {
        Self {
            slots: RefCell::new((0..requests.max(1)).map(|_| None).collect()),
            held: Cell::new(0),
            bytes: Cell::new(0),
            bytes_max: bytes,
            last: Cell::new(0),
            heard: Cell::new(Instant::now()),
            room: Notify::new(),
            begun: Notify::new(),
        }
    }

    pub fn has_room(&self) -> bool {
        self.held.get() < self.slots.borrow().len() && self.bytes.get() < self.bytes_max
    }

    pub async fn until_room(&self) {
        while !self.has_room() {
            self.room.notified().await;
        }
    }

    pub async fn until_empty(&self) {
        while self.held.get() > 0 {
            self.room.notified().await;
        }
    }

    pub async fn until_begun(&self) {
        while self.held.get() == 0 {
            self.begun.notified().await;
        }
    }

    /// Until one more is entered, or was since the last call.
    pub async fn until_next(&self) {
        self.begun.notified().await;
    }

    /// A cookie, and since when it waits; the request itself is given by `put`.
    ///
    /// # Panics
    /// Without room.
    pub fn enter(&self, len: u32, flush: bool) -> u64 {
        let mut slots = self.slots.borrow_mut();
        let count = slots.len() as u64;
        let free = slots.iter().position(Option::is_none).expect("the caller has seen that there is room");
        self.last.set(self.last.get() + 1);
        let cookie = self.last.get() * count + free as u64;
        slots[free] = Some(Slot { cookie, since: Instant::now(), len: len.into(), flush, request: None });
        self.held.set(self.held.get() + 1);
        self.bytes.set(self.bytes.get() + u64::from(len));
        self.begun.notify_one();
        cookie
    }

    fn index(&self, cookie: u64) -> usize {
        usize::try_from(cookie % self.slots.borrow().len() as u64).expect("below the number of slots")
    }

    /// Gives the request (back) to its place.
    pub fn put(&self, cookie: u64, request: Request) {
        let index = self.index(cookie);
        if let Some(slot) = self.slots.borrow_mut()[index].as_mut().filter(|s| s.cookie == cookie) {
            slot.request = Some(request);
        }
    }

    /// Takes a request to read its data, or to end it; its place stays.
    pub fn take(&self, cookie: u64) -> Option<Request> {
        let index = self.index(cookie);
        self.slots.borrow_mut()[index].as_mut().filter(|s| s.cookie == cookie)?.request.take()
    }

    /// Its place is free.
    pub fn leave(&self, cookie: u64) {
        let index = self.index(cookie);
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots[index].take_if(|s| s.cookie == cookie) {
            self.held.set(self.held.get() - 1);
            self.bytes.set(self.bytes.get() - slot.len);
            self.room.notify_one();
        }
    }

    /// Since when the oldest waits.
    pub fn oldest(&self) -> Option<Instant> {
        self.slots.borrow().iter().flatten().map(|s| s.since).min()
    }

    /// Something was answered, or a part of it.
    pub fn heard(&self) {
        self.heard.set(Instant::now());
    }

    /// Since when nothing was answered that a read or write waits for; `None` where none does.
    pub fn silent_since(&self) -> Option<Instant> {
        let oldest = self.slots.borrow().iter().flatten().filter(|s| !s.flush).map(|s| s.since).min();
        oldest.map(|since| since.max(self.heard.get()))
    }
}
