//! What the tests stand on: real parts under guards ([`real`]), disks after a power cut ([`crash`]),
//! and volumes against a byte array ([`model`]).

pub mod crash;
pub mod model;
pub mod real;
