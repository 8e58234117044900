//! The machine under test: every step is checked from outside.

mod attach;
mod data;
mod death;
mod fence;
mod grants;
mod harness;
mod hold;
mod joining;
mod locks;
mod mail;
mod matrix;
mod mirror;
mod mirror_copier;
mod mirror_jobs;
mod mirror_places;
mod people;
mod random;
mod remap;
mod returns;
mod seal;
mod segments;
mod sessions;
mod through;
mod verbs;
mod writer;
