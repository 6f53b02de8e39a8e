//! What the BPF programs compute without touching the kernel, so that the host can test it.
#![no_std]
#![forbid(unsafe_code)]

pub mod parse;
