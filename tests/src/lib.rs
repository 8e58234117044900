//! What the tests stand on: real parts under guards ([`real`]).

pub mod real;
