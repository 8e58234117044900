//! What the tests stand on: real parts under guards ([`real`]), and disks after a power cut ([`crash`]).

pub mod crash;
pub mod real;
