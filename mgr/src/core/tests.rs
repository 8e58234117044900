//! The machine under test: every step is checked from outside.

mod attach;
mod data;
mod death;
mod fence;
mod grants;
mod harness;
mod hold;
mod locks;
mod mail;
mod matrix;
mod people;
mod random;
mod seal;
mod sessions;
mod through;
mod verbs;
mod writer;
