#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| flannel_packets::exercise::coalesce(input));
