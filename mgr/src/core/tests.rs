//! The machine under test: every step is checked from outside.

mod attach;
mod data;
mod harness;
mod hold;
mod matrix;
mod people;
mod random;
mod sessions;
mod verbs;
