//! What the tests stand on: real parts under guards ([`real`]), disks after a power cut ([`crash`]), a catalog to judge on
//! them ([`catalog`]), volumes against a byte array ([`model`]), and worlds from seeds ([`sim`]).

pub mod catalog;
pub mod crash;
pub mod model;
pub mod real;
pub mod sim;
