#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| flashover_fuzz::targets::peers::seal(data));
