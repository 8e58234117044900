//! Requests are sent in order, again after a lost connection, and answered once.
